"""Figures: what a question measured, what it was to reach, and what stood beside it in the same run.

A question yields rows of the table. A row without a value says why it was left out; a row without a goal
only informs.
"""

from enum import Enum
from typing import Final

import msgspec


class Verdict(Enum):
    MET = "met"
    MISSED = "missed"
    TOLD = "–"  # no goal: it only informs
    LEFT_OUT = "left out"


class Goal(msgspec.Struct, frozen=True):
    """At least `value` (rates, ratios) or at most it (times, sizes), in the row's unit."""

    value: float
    at_most: bool = False

    def factor(self, reached: float) -> float:
        """By how much the goal is surpassed: 1 is just met, 2 twice as good, 0.5 half as good."""
        if reached <= 0:
            return 1000.0 if self.at_most else 0.0
        return self.value / reached if self.at_most else reached / self.value


class Row(msgspec.Struct, frozen=True):
    question: str
    what: str
    unit: str
    value: float | None
    goal: Goal | None = None
    beside: str = ""  # what it was measured against in the same run
    note: str = ""  # how it was measured, or why it was left out

    @property
    def verdict(self) -> Verdict:
        if self.value is None:
            return Verdict.LEFT_OUT
        if self.goal is None:
            return Verdict.TOLD
        met = self.value <= self.goal.value if self.goal.at_most else self.value >= self.goal.value
        return Verdict.MET if met else Verdict.MISSED

    @property
    def to_reach(self) -> str:
        if self.goal is None:
            return ""
        return ("≤ " if self.goal.at_most else "≥ ") + with_unit(self.goal.value, self.unit)

    @property
    def reached(self) -> str:
        return "" if self.value is None else with_unit(self.value, self.unit)


def at_least(value: float) -> Goal:
    return Goal(value)


def at_most(value: float) -> Goal:
    return Goal(value, at_most=True)


def left_out(question: str, what: str, why: str, unit: str = "", goal: Goal | None = None) -> Row:
    return Row(question, what, unit, None, goal, note=why)


UNIT_BEFORE: Final = ("×",)  # units that stand without a space


def with_unit(value: float, unit: str) -> str:
    """A number as a person reads it: three significant digits, thousands apart."""
    if value >= 1000:
        text = f"{value:,.0f}"
    elif value >= 100:
        text = f"{value:.0f}"
    elif value >= 10:
        text = f"{value:.3g}"
    else:
        text = f"{value:.2f}"
    return f"{text}{unit}" if unit in UNIT_BEFORE else f"{text} {unit}".rstrip()


class Report(msgspec.Struct, frozen=True):
    """All of one run, as it is written to JSON."""

    machine: str
    began: str  # RFC 3339, UTC
    seconds: float
    quick: bool
    rows: list[Row]
    missing: list[str]  # programs that were not found
