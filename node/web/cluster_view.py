"""What the page of a cluster shows, made of what its nodes say; pure.

Texts are named, not written: a `Line` is a key of the catalogue and its values, so that the server's first
page and the script that keeps it fresh say the same, in whichever language.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from cluster.keys import META_PARTITION
from cluster.reports import CLOCK_OFF_MS_MAX, NAME_LETTERS, Overview, Picture, Report, Seen, lagging, leaders

SEGMENTS_MAX: Final = 512  # of the ring: more could not be told apart; each stands for several then
HUES: Final = 7  # as many colours has the style sheet, and as many nodes a cluster
UNITS: Final = ("kB", "MB", "GB", "TB")
AGES: Final = ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h"))  # below so many s, in units of, named
DAY_S: Final = 86400
WELL, LIMPING, STOPPED = "well", "limping", "stopped"

Values = dict[str, str | int]


class Line(msgspec.Struct, frozen=True):
    """A text of the catalogue."""

    key: str
    values: Values = {}


class Fact(msgspec.Struct, frozen=True):
    name: str  # of the text that is its label
    line: Line
    is_odd: bool = False  # an operator should look at it


class NodeView(msgspec.Struct, frozen=True):
    node_id: str
    letter: str
    hue: int  # 1 to HUES
    name: str
    address: str
    zone: str
    is_me: bool
    heard: bool
    state: Line
    facts: tuple[Fact, ...]
    share: int  # percent of the disk that is in use, as far as this node may use it
    up_s: float  # three counters, from which whoever looks twice finds rates
    cpu_s: float
    applied: int


class Segment(msgspec.Struct, array_like=True, frozen=True):
    """One partition, or several that follow each other."""

    label: str
    lane: int  # of the node that leads most of it; -1 where a partition has no leader
    leaders: str  # letters
    voters: str
    behind: str


class LetterView(msgspec.Struct, frozen=True):
    """A dead letter."""

    path: str  # of the API; `/retry` and `/drop` are under it
    what: Line
    detail: str
    at: str


class ClusterView(msgspec.Struct, frozen=True):
    alone: bool
    tone: str  # WELL, LIMPING or STOPPED
    sentence: Line  # all of it in one
    notes: tuple[Line, ...]  # what else is going on
    nodes: tuple[NodeView, ...]
    says: Line  # the ring, for who does not see it
    ring: tuple[Segment, ...]
    meta: Segment
    letters: tuple[LetterView, ...]
    more_letters: bool


def cluster_view(
    overview: Overview, letters: Sequence[LetterView], more_letters: bool, now_ms: int
) -> ClusterView:
    picture = overview.picture
    letter_of = {node: chr(ord("A") + number) for number, node in enumerate(overview.zones)}
    ring, meta = segments(overview, letter_of)
    nodes = tuple(_node(seen, overview, letter_of, now_ms) for seen in sorted_by(picture.members, letter_of))
    away = [letter_of[seen.node_id] for seen in picture.members if not seen.heard]
    since = [_age(overview.away_s[seen.node_id]) for seen in picture.members
             if not seen.heard and seen.node_id in overview.away_s]  # fmt: skip
    tone, sentence = verdict(picture, sorted(away), since[0] if since else "")
    return ClusterView(
        alone=picture.alone,
        tone=tone,
        sentence=sentence,
        notes=_notes(picture, letter_of),
        nodes=nodes,
        says=_says(picture, overview.reports, letter_of, ring, meta),
        ring=ring,
        meta=meta,
        letters=tuple(letters),
        more_letters=more_letters,
    )


def sorted_by(members: Iterable[Seen], letter_of: Mapping[str, str]) -> list[Seen]:
    return sorted(members, key=lambda seen: letter_of[seen.node_id])


# --- the whole, in one sentence --------------------------------------------------------------------------
def verdict(picture: Picture, away: Sequence[str], since: str) -> tuple[str, Line]:
    """`away`: the letters of those that are not heard; `since`: for how long the one is not, if it is one."""
    full = [seen.full for seen in picture.members if seen.heard and seen.full]
    if picture.groups_without_leader == picture.groups and away:
        return STOPPED, Line("cluster_stopped", {"nodes": _listed(away)})
    if picture.groups_without_leader:
        values: Values = {"count": picture.groups_without_leader, "groups": picture.groups}
        return STOPPED, Line("cluster_partly", values)
    if full and len(full) == picture.heard:
        return STOPPED, Line("cluster_full", {"why": full[0]})
    if picture.alone:
        return WELL, Line("cluster_alone")
    if len(away) == 1:
        key = "cluster_missing_since" if since else "cluster_missing"
        return LIMPING, Line(key, {"nodes": away[0], **({"since": since} if since else {})})
    if away:
        return LIMPING, Line("cluster_missing_many", {"nodes": _listed(away)})
    odd = picture.words or picture.replicas_behind
    return LIMPING if odd else WELL, Line("cluster_well", {"count": picture.nodes})


def _notes(picture: Picture, letter_of: Mapping[str, str]) -> tuple[Line, ...]:
    found = []
    if picture.replicas_behind:
        found.append(Line("cluster_behind", {"count": picture.replicas_behind}))
    if picture.changing:
        found.append(Line("cluster_changing", {"count": picture.changing}))
    for seen in sorted_by(picture.members, letter_of):
        values: Values = {"node": letter_of[seen.node_id]}
        if seen.full:
            found.append(Line("cluster_note_full", {**values, "why": seen.full}))
        if abs(seen.clock_off_ms) > CLOCK_OFF_MS_MAX:
            found.append(Line("cluster_note_clock", {**values, "off": f"{seen.clock_off_ms:+d}"}))
    return tuple(found)


def _listed(letters: Sequence[str]) -> str:
    return ", ".join(letters)


# --- the nodes -------------------------------------------------------------------------------------------
def _node(seen: Seen, overview: Overview, letter_of: Mapping[str, str], now_ms: int) -> NodeView:
    picture, report = overview.picture, overview.reports.get(seen.node_id)
    letter = letter_of[seen.node_id]
    room = seen.used_bytes + seen.disk_free_bytes
    return NodeView(
        node_id=seen.node_id,
        letter=letter,
        hue=(ord(letter) - ord("A")) % HUES + 1,
        name=seen.node_id[:NAME_LETTERS],
        address=seen.address,
        zone=overview.zones[seen.node_id],
        is_me=seen.node_id == picture.node_id,
        heard=seen.heard,
        state=_state(seen, overview),
        facts=_facts(seen, report, picture, now_ms),
        share=round(100 * seen.used_bytes / room) if room else 0,
        up_s=round(report.up_s, 3) if report else 0.0,
        cpu_s=round(report.cpu_s, 3) if report else 0.0,
        applied=report.applied if report else 0,
    )


def _state(seen: Seen, overview: Overview) -> Line:
    if seen.heard:
        return Line("cluster_this" if seen.node_id == overview.picture.node_id else "cluster_heard")
    away = overview.away_s.get(seen.node_id)
    return Line("cluster_unheard_since", {"since": _age(away)}) if away else Line("cluster_unheard")


def _facts(seen: Seen, report: Report | None, picture: Picture, now_ms: int) -> tuple[Fact, ...]:
    """Of one that is not heard nothing is known but what the others say."""
    behind = Line("cluster_behind_in", {"count": seen.behind}) if seen.behind else Line("cluster_level")
    if report is None:
        unknown = ("cluster_leads", "cluster_load", "cluster_disk", "cluster_clock", "cluster_blobs")
        rounds = ("cluster_repair", "cluster_scrub")
        return (
            *(Fact(name, Line("cluster_unknown")) for name in unknown[:1]),
            Fact("cluster_replicas", behind if seen.behind else Line("cluster_unknown"), bool(seen.behind)),
            *(Fact(name, Line("cluster_unknown")) for name in (*unknown[1:], *rounds)),
        )
    room: Values = {"used": _size(seen.used_bytes), "free": _size(seen.disk_free_bytes)}
    return (
        Fact("cluster_leads", Line("cluster_leads_of", {"leads": seen.leads, "groups": picture.groups})),
        Fact("cluster_replicas", behind, bool(seen.behind)),
        Fact("cluster_load", Line("cluster_measuring")),
        Fact("cluster_disk", Line("cluster_disk_of", room), bool(seen.full)),
        Fact("cluster_clock", _clock(seen), abs(seen.clock_off_ms) > CLOCK_OFF_MS_MAX),
        Fact("cluster_blobs", _blobs(report), bool(report.blobs_wanted or report.blobs_damaged)),
        Fact("cluster_repair", _round(report.repairing, report.repaired_ms, now_ms)),
        Fact("cluster_scrub", _round(report.scrubbing, report.scrubbed_ms, now_ms)),
    )


def _clock(seen: Seen) -> Line:
    off = seen.clock_off_ms
    return Line("cluster_clock_off", {"off": f"{off:+d}"}) if off else Line("cluster_clock_even")


def _blobs(report: Report) -> Line:
    if report.blobs_damaged:
        return Line("cluster_blobs_damaged", {"count": report.blobs_damaged})
    if report.blobs_wanted:
        return Line("cluster_blobs_wanted", {"count": report.blobs_wanted})
    return Line("cluster_blobs_whole")


def _round(is_running: bool, ended_ms: int, now_ms: int) -> Line:
    if is_running:
        return Line("cluster_running")
    if not ended_ms:
        return Line("cluster_not_yet")
    return Line("cluster_ago", {"age": _age((now_ms - ended_ms) / 1000)})


# --- the ring --------------------------------------------------------------------------------------------
def segments(overview: Overview, letter_of: Mapping[str, str]) -> tuple[tuple[Segment, ...], Segment]:
    """Of the partitions in their order, and of the meta group."""
    led, behind = leaders(overview.reports), lagging(overview.reports)
    partitions = sorted(number for number in overview.voters if number != META_PARTITION)
    each = -(-len(partitions) // SEGMENTS_MAX)

    def of(label: str, numbers: Sequence[int]) -> Segment:
        leading = [led[number] for number in numbers if number in led]
        most = max(leading, key=leading.count) if len(leading) == len(numbers) else ""
        return Segment(
            label,
            list(letter_of).index(most) if most in letter_of else -1,
            _letters(leading, letter_of),
            _letters((node for number in numbers for node in overview.voters[number]), letter_of),
            _letters((node for number in numbers for node in behind.get(number, ())), letter_of),
        )

    ring = tuple(
        of(_span(partitions[at : at + each]), partitions[at : at + each])
        for at in range(0, len(partitions), each or 1)
    )
    return ring, of("meta", (META_PARTITION,))


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"


def _letters(nodes: Iterable[str], letter_of: Mapping[str, str]) -> str:
    return "".join(sorted({letter_of[node] for node in nodes if node in letter_of}))


def _says(
    picture: Picture, reports: Mapping[str, Report], letter_of: Mapping[str, str],
    ring: Sequence[Segment], meta: Segment,
) -> Line:  # fmt: skip
    """What the ring shows, in words."""
    led = ", ".join(
        f"{letter} {sum(number != META_PARTITION for number in reports[node].leads)}"
        for node, letter in letter_of.items()
        if node in reports
    )
    values: Values = {
        "groups": picture.groups - 1,
        "led": led,
        "none": picture.groups_without_leader,
        "behind": sum(bool(segment.behind) for segment in (*ring, meta)),
    }
    return Line("cluster_ring_says", values)


# --- numbers for people ----------------------------------------------------------------------------------
def _size(count: int) -> str:
    """Bytes, to three digits."""
    size, unit = float(count), "B"
    for larger in UNITS:
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.{1 if unit != 'B' and size < 99.95 else 0}f} {unit}"


def _age(seconds: float) -> str:
    for most, unit_s, unit in AGES:
        if seconds < most:
            return f"{max(0, int(seconds // unit_s))} {unit}"
    return f"{int(seconds // DAY_S)} d"
