"""Rows, their verdicts and the picture of them: how figures are told, never what they are."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench.chart import FACTOR_MAX, draw
from bench.figures import Report, Row, Verdict, at_least, at_most, left_out, with_unit


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (at_least(10), 10.0, Verdict.MET),
        (at_least(10), 9.99, Verdict.MISSED),
        (at_most(10), 10.0, Verdict.MET),
        (at_most(10), 10.01, Verdict.MISSED),
        (None, 3.0, Verdict.TOLD),
        (at_least(10), None, Verdict.LEFT_OUT),
    ],
)
def test_a_row_says_whether_its_goal_is_met(goal, value, verdict):
    assert Row("q", "what", "ms", value, goal).verdict is verdict


def test_factors_grow_with_what_is_better():
    assert at_least(100).factor(200) == 2
    assert at_most(100).factor(50) == 2
    assert at_most(100).factor(200) == 0.5


def test_a_factor_of_nothing_is_the_best_or_the_worst():
    assert at_most(100).factor(0) > FACTOR_MAX
    assert at_least(100).factor(0) == 0


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(12345.6, "/s", "12,346 /s"), (123.4, "ms", "123 ms"), (12.34, "ms", "12.3 ms"), (1.234, "×", "1.23×")],
)
def test_numbers_have_three_digits(value, unit, text):
    assert with_unit(value, unit) == text


def test_what_is_left_out_says_why():
    row = left_out("q", "beside Redis", "redis-server is not installed", "×", at_least(2))
    assert (row.verdict, row.note, row.reached) == (Verdict.LEFT_OUT, "redis-server is not installed", "")


def test_the_picture_is_xml_and_shows_every_goal_once():
    rows = [
        Row("a", "met <&> shown", "/s", 200.0, at_least(100), 'beside "nginx"'),
        Row("a", "far beyond", "ms", 0.0, at_most(5)),
        Row("b", "missed", "×", 0.1, at_least(2)),
        Row("b", "only told", "/s", 1.0),
        left_out("c", "left out", "why", "×", at_least(1)),
    ]
    svg = draw(Report("a machine", "2026-01-01T00:00:00+00:00", 1.0, True, rows, []))
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert texts.count("met <&> shown") == texts.count("far beyond") == texts.count("missed") == 1
    assert "only told" not in texts
    assert "left out" not in texts
    assert {"met: 2", "missed: 1"} <= set(texts)
