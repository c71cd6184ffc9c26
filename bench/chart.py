"""The picture of a run: for each goal, by how much it was surpassed or missed, as SVG.

All goals share one logarithmic axis of factors: the line at 1 is the goal, a bar to the right is better, to
the left worse. Colours follow the reader's light or dark mode.
"""

import math
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from bench.figures import Report, Row, Verdict

WIDTH: Final = 1180
ROW_HEIGHT: Final = 42
TOP: Final = 92
BOTTOM: Final = 58
LABELS: Final = 530  # width of the column of names
VALUES: Final = 150  # width of the column of figures
FACTOR_MIN: Final = 0.125
FACTOR_MAX: Final = 16.0
TICKS: Final = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16)
LABEL_CHARACTERS: Final = 72
BESIDE_CHARACTERS: Final = 84

LIGHT: Final = {
    "text": "fill: #1d2329",
    ".soft": "fill: #68727d",
    ".paper": "fill: #ffffff",
    ".rule": "stroke: #dfe3e8",
    ".goal": "stroke: #1d2329",
    ".met": "fill: #2b7a56",
    ".missed": "fill: #c2571f",
}
DARK: Final = {
    "text": "fill: #e8ebee",
    ".soft": "fill: #98a2ad",
    ".paper": "fill: #14181c",
    ".rule": "stroke: #2c333b",
    ".goal": "stroke: #e8ebee",
    ".met": "fill: #4fb98a",
    ".missed": "fill: #ec8a4e",
}


def _rules(colours: dict[str, str]) -> str:
    return " ".join(f"{name} {{ {rule}; }}" for name, rule in colours.items())


STYLE: Final = f"""
  svg {{ font-family: system-ui, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif; }}
  text {{ font-size: 13px; }} .title {{ font-size: 19px; font-weight: 600; }} .soft {{ font-size: 11px; }}
  .value {{ font-weight: 600; }} .end {{ text-anchor: end; }} .middle {{ text-anchor: middle; }}
  {_rules(LIGHT)}
  @media (prefers-color-scheme: dark) {{ {_rules(DARK)} }}
"""


def draw(report: Report) -> str:
    """The SVG document; rows without a goal or a value are not in it."""
    rows = [row for row in report.rows if row.verdict in (Verdict.MET, Verdict.MISSED)]
    height = TOP + len(rows) * ROW_HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="Heliograph: goals and what was reached">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="10"/>',
        '<text class="title" x="28" y="40">What was to reach, and what was reached</text>',
        f'<text class="soft" x="28" y="62">{escape(_subtitle(report))}</text>',
        *_axis(height),
        *(part for number, row in enumerate(rows) for part in _row(number, row)),
        *_legend(height, rows),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _subtitle(report: Report) -> str:
    size = ", a tenth of the data" if report.quick else ""
    return f"{report.machine}; {report.began[:10]}{size}"


def _x(factor: float) -> float:
    """Where a factor stands, in pixels; what is off the axis stands at its end."""
    left, right = LABELS + 8, WIDTH - VALUES
    share = math.log(min(max(factor, FACTOR_MIN), FACTOR_MAX) / FACTOR_MIN) / math.log(
        FACTOR_MAX / FACTOR_MIN
    )
    return left + share * (right - left)


def _axis(height: int) -> Iterator[str]:
    for tick in TICKS:
        x = _x(tick)
        line = "goal" if tick == 1 else "rule"
        name = "goal" if tick == 1 else f"{tick:g}×"
        yield f'<line class="{line}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - BOTTOM + 4}"/>'
        yield f'<text class="soft middle" x="{x:.1f}" y="{TOP - 12}">{name}</text>'


def _row(number: int, row: Row) -> Iterator[str]:
    assert row.goal is not None and row.value is not None
    top = TOP + number * ROW_HEIGHT
    ends = sorted((_x(1), _x(row.goal.factor(row.value))))
    colour = "met" if row.verdict is Verdict.MET else "missed"
    yield f"<g><title>{escape(row.note or row.what)}</title>"
    yield (
        f'<rect class="{colour}" x="{ends[0]:.1f}" y="{top + 9}" width="{max(2.0, ends[1] - ends[0]):.1f}" '
        'height="18" rx="3"/>'
    )
    what, beside = _short(row.what, LABEL_CHARACTERS), _short(row.beside, BESIDE_CHARACTERS)
    yield f'<text class="end" x="{LABELS - 8}" y="{top + 17}">{escape(what)}</text>'
    yield f'<text class="soft end" x="{LABELS - 8}" y="{top + 31}">{escape(beside)}</text>'
    yield f'<text class="value" x="{WIDTH - VALUES + 16}" y="{top + 17}">{escape(row.reached)}</text>'
    yield f'<text class="soft" x="{WIDTH - VALUES + 16}" y="{top + 31}">{escape(row.to_reach)}</text></g>'


def _legend(height: int, rows: list[Row]) -> Iterator[str]:
    y = height - 24
    met = sum(row.verdict is Verdict.MET for row in rows)
    yield f'<rect class="met" x="28" y="{y - 10}" width="12" height="12" rx="3"/>'
    yield f'<text x="46" y="{y}">met: {met}</text>'
    yield f'<rect class="missed" x="128" y="{y - 10}" width="12" height="12" rx="3"/>'
    yield f'<text x="146" y="{y}">missed: {len(rows) - met}</text>'
    yield (
        f'<text class="soft end" x="{WIDTH - 28}" y="{y}">bars: how many times better than the goal '
        "(logarithmic); each measured in the same run as what it is compared with</text>"
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
