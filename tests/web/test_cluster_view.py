"""What the page of a cluster says, of every state that a cluster can be in."""

import re
from itertools import pairwise

import msgspec
import pytest

from cluster import reports
from cluster.keys import META_PARTITION
from cluster.reports import Overview, Report
from node.web import ring
from node.web.catalogue import Catalogue
from node.web.cluster_view import SEGMENTS_MAX, Line, cluster_view

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
GROUPS = (0, 1, 2, 3, META_PARTITION)
CALM = [Report(A, leads=(0, META_PARTITION)), Report(B, leads=(1, 3)), Report(C, leads=(2,))]
NOW_MS = 1_700_000_000_000
CATALOGUE = Catalogue()


def seen(heard, *, members=(B, A, C), groups=GROUPS, away_s=None, alone=False):
    """By A. `members` in the order in which they joined."""
    said = {report.node_id: report for report in heard}
    unheard = {node: "no link" for node in members if node not in said}
    addresses = {node: f"10.0.0.{number}:8002" for number, node in enumerate(members)}
    picture = reports.picture(A, "" if alone else "0c" * 16, addresses, said, unheard, groups)
    zones = dict.fromkeys(members, "")
    overview = Overview(picture, said, zones, away_s or {}, dict.fromkeys(groups, tuple(members)))
    return cluster_view(overview, (), False, NOW_MS)


def leads_all(*others, **fields):
    return [Report(A, leads=GROUPS, **fields), *others]


@pytest.mark.parametrize(
    ("heard", "options", "tone", "sentence"),
    [
        (CALM, {}, "well", "All 3 nodes are heard; writes are taken."),
        (leads_all(Report(C)), {"away_s": {B: 12.4}}, "limping",
         "Node A has not been heard for 12 s; writes are taken."),
        (leads_all(Report(C)), {}, "limping", "Node A is not heard; writes are taken."),
        (leads_all(), {"away_s": {B: 12.4}}, "limping", "Nodes A, C are not heard; writes are taken."),
        ([Report(A)], {"away_s": {B: 3.0, C: 4.0}}, "stopped",
         "No majority: writes are stopped, reads go on. Not heard: A, C."),
        ([Report(A), Report(B), Report(C)], {}, "stopped",
         "5 of 5 groups have no leader: their writes are stopped, reads go on."),
        ([Report(A, leads=(0, 1, META_PARTITION)), Report(B), Report(C)], {}, "stopped",
         "2 of 5 groups have no leader: their writes are stopped, reads go on."),
        (leads_all(Report(B, full="the quota"), Report(C)), {}, "limping",
         "All 3 nodes are heard; writes are taken."),
        (leads_all(full="the quota"), {"members": (A,), "alone": True}, "stopped",
         "Writes are refused, reads go on: the quota"),
        (leads_all(), {"members": (A,), "alone": True}, "well", "This node is alone; writes are taken."),
    ],
)  # fmt: skip
def test_one_plain_sentence(heard, options, tone, sentence):
    view = seen(heard, **options)
    words = CATALOGUE.languages["en"]
    assert (view.tone, words(view.sentence.key, **view.sentence.values)) == (tone, sentence)


def test_every_line_has_its_words_in_every_language():
    """What is missing would fail a page: no line may name a text or a value that the catalogue does not."""
    odd = Report(C, leads=(2,), full="why", clock_off_ms=900, blobs_wanted=2, blobs_damaged=1, repairing=True)
    views = [
        seen(CALM),
        seen([CALM[0], Report(B, leads=(1, 3), behind={C: (1, 3)}, changing=2), odd]),
        seen(leads_all(), away_s={B: 90000.0, C: 500.0}),
    ]
    lines = [
        line
        for view in views
        for line in (
            view.sentence, view.says, *view.notes,
            *(node.state for node in view.nodes),
            *(fact.line for node in view.nodes for fact in node.facts),
            *(Line(fact.name) for node in view.nodes for fact in node.facts),
        )
    ]  # fmt: skip
    for words in CATALOGUE.languages.values():
        for line in lines:
            assert "{" not in words(line.key, **line.values)


def test_letters_follow_the_order_of_joining():
    view = seen(CALM)
    assert [(node.letter, node.node_id, node.hue) for node in view.nodes] == [
        ("A", B, 1),
        ("B", A, 2),
        ("C", C, 3),
    ]
    assert [node.is_me for node in view.nodes] == [False, True, False]


def test_the_ring():
    heard = [
        Report(A, leads=(0, META_PARTITION), behind={C: (0,), B: (META_PARTITION,)}),
        Report(B, leads=(1,)),
        Report(C),
    ]
    view = seen(heard)
    assert [(one.label, one.lane, one.leaders, one.behind) for one in view.ring] == [
        ("0", 1, "B", "C"),
        ("1", 0, "A", ""),
        ("2", -1, "", ""),
        ("3", -1, "", ""),
    ]
    assert (view.meta.lane, view.meta.behind, view.meta.voters) == (1, "A", "ABC")
    assert view.says.values == {"groups": 4, "led": "A 1, B 1, C 0", "none": 2, "behind": 2}


def test_a_ring_of_many_partitions_has_no_more_segments_than_can_be_seen():
    groups = (*range(8192), META_PARTITION)
    view = seen([Report(A, leads=tuple(n for n in groups if n != 17)), Report(B), Report(C)], groups=groups)
    assert len(view.ring) == SEGMENTS_MAX
    assert [one.lane for one in view.ring[:3]] == [1, -1, 1]  # 17 has no leader
    assert (view.ring[1].label, view.ring[1].leaders) == ("16–31", "B")
    assert len(msgspec.json.encode(view)) < 40_000


def test_what_a_node_says_of_itself():
    busy = Report(
        C, leads=(2,), used_bytes=12_345_678, disk_free_bytes=987_654_321_000, clock_off_ms=-3,
        repairing=True, scrubbed_ms=NOW_MS - 7_300_000, blobs_wanted=2, up_s=10.0, cpu_s=1.5, applied=70,
    )  # fmt: skip
    node = seen([*CALM[:2], busy]).nodes[2]
    found = {fact.name: (fact.line, fact.is_odd) for fact in node.facts}
    assert found["cluster_disk"] == (Line("cluster_disk_of", {"used": "12.3 MB", "free": "988 GB"}), False)
    assert found["cluster_clock"] == (Line("cluster_clock_off", {"off": "-3"}), False)
    assert found["cluster_blobs"] == (Line("cluster_blobs_wanted", {"count": 2}), True)
    assert found["cluster_repair"][0] == Line("cluster_running")
    assert found["cluster_scrub"][0] == Line("cluster_ago", {"age": "2 h"})
    assert (node.up_s, node.cpu_s, node.applied) == (10.0, 1.5, 70)


def test_of_a_node_that_is_not_heard_only_what_others_say():
    heard = [Report(A, leads=GROUPS, behind={B: (1, 2)}), Report(C)]
    node = seen(heard, away_s={B: 150.0}).nodes[0]
    assert node.state == Line("cluster_unheard_since", {"since": "2 min"})
    known = [(fact.name, fact.line) for fact in node.facts if fact.line != Line("cluster_unknown")]
    assert known == [("cluster_replicas", Line("cluster_behind_in", {"count": 2}))]
    whole = seen(CALM).nodes[0]
    assert [fact.name for fact in node.facts] == [fact.name for fact in whole.facts]  # the script finds each


@pytest.mark.parametrize(("lanes", "segments"), [(1, 1), (3, 256), (7, 512)])
def test_shapes_have_a_name_for_every_segment_and_stay_in_the_picture(lanes, segments):
    shapes = {shape.name: shape for shape in ring.shapes(lanes, segments)}
    wanted = {ring.name(lane, behind) for lane in range(-1, lanes) for behind in (False, True)}
    assert set(shapes) == wanted and len(ring.tracks(lanes)) == lanes
    for shape in shapes.values():
        numbers = [float(found) for found in re.findall(r"-?\d+\.\d\d", shape.path + shape.mark)]
        assert numbers and max(map(abs, numbers)) < ring.EDGE
        assert bool(shape.mark) == shape.name.endswith("-behind")
    turns = [ring.turn(number, segments) for number in range(segments)]
    assert turns == sorted(turns) and turns[0] > 0 and turns[-1] < 360


def test_lanes_do_not_overlap():
    tracks = ring.tracks(7)
    for outer, inner in pairwise(tracks):
        assert outer.radius - outer.width / 2 > inner.radius + inner.width / 2
