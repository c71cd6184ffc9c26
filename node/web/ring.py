"""The ring of partitions as SVG shapes: one lane for each node, a segment in the lane of whoever leads; pure.

A page draws each segment as a `use` of one of these shapes, turned to its place. So a script moves a segment
to another lane by naming another shape, and needs no geometry. Whoever cannot tell the colours apart sees
the lane.
"""

from math import cos, pi, radians, sin
from typing import Final

import msgspec

INSIDE: Final = 50.0  # radii, in units of which the picture is 2 * EDGE wide
OUTSIDE: Final = 96.0
MARK_INSIDE: Final = 99.0  # of what marks a replica that is behind
MARK_OUTSIDE: Final = 105.0
EDGE: Final = 108.0
OPENING: Final = 16.0  # degrees at the top, where the lanes have their letters
FILLED: Final = 0.8  # of a segment's angle; the rest parts it from the next
BETWEEN: Final = 1.2  # two lanes


class Shape(msgspec.Struct, frozen=True):
    name: str
    path: str
    mark: str  # the path of what says that a replica is behind; empty: none is


class Track(msgspec.Struct, frozen=True):
    """A lane, as a line around the middle."""

    radius: float
    width: float


def name(lane: int, is_behind: bool) -> str:
    """Of the shape of a segment; a negative lane is nobody's. The script says the same."""
    return ("lane-none" if lane < 0 else f"lane-{lane}") + ("-behind" if is_behind else "")


def shapes(lanes: int, segments: int) -> tuple[Shape, ...]:
    """Everything that a segment can be, at the top of the ring; `lanes` and `segments` are at least 1."""
    width = (360 - OPENING) / segments * FILLED
    mark = _arc(MARK_INSIDE, MARK_OUTSIDE, width)
    paths = {-1: _arc(INSIDE + BETWEEN, OUTSIDE - BETWEEN, width)}
    for lane, track in enumerate(tracks(lanes)):
        paths[lane] = _arc(track.radius - track.width / 2, track.radius + track.width / 2, width)
    return tuple(
        Shape(name(lane, is_behind), path, mark if is_behind else "")
        for lane, path in paths.items()
        for is_behind in (False, True)
    )


def tracks(lanes: int) -> tuple[Track, ...]:
    """The first node's lane is the outermost."""
    whole = (OUTSIDE - INSIDE) / lanes
    return tuple(
        Track(round(OUTSIDE - whole * (lane + 0.5), 2), round(whole - BETWEEN, 2)) for lane in range(lanes)
    )


def turn(segment: int, segments: int) -> float:
    """Degrees, clockwise from the top, to the middle of a segment."""
    return round(OPENING / 2 + (segment + 0.5) * (360 - OPENING) / segments, 3)


def _arc(inner: float, outer: float, width: float) -> str:
    """A piece of a ring around the origin, `width` degrees wide, with its middle at the top."""
    is_large = int(width > 180)
    left, right = radians(-90 - width / 2), radians(-90 + width / 2)
    return (
        f"M{_at(outer, left)}A{outer:g} {outer:g} 0 {is_large} 1 {_at(outer, right)}"
        f"L{_at(inner, right)}A{inner:g} {inner:g} 0 {is_large} 0 {_at(inner, left)}Z"
    )


def _at(radius: float, angle: float) -> str:
    assert -2 * pi < angle < 2 * pi
    return f"{radius * cos(angle):.2f} {radius * sin(angle):.2f}"
