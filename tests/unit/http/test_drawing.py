"""A graph on the page: layers, circles, nothing above anything else, and the same picture each time."""

from __future__ import annotations

import re
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.http.page.drawing import BORDER, GAP, MOST_NODES, Drawing, Edge, Node, draw

NAMES = "abcdefghij"


def drawing(*pairs: str, names: str = "") -> Drawing:
    ids = dict.fromkeys(names or "".join(pairs))
    found = draw([Node(id, id, "step") for id in ids], [Edge(*pair) for pair in pairs])
    assert found is not None
    return found


def columns(found: Drawing) -> dict[str, int]:
    """Return the number of each node's layer."""
    xs = sorted({box.x for box in found.boxes})
    return {box.node.id: xs.index(box.x) for box in found.boxes}


def ends(path: str) -> tuple[tuple[int, int], tuple[int, int]]:
    numbers = [int(one) for one in re.findall(r"-?\d+", path)]
    return (numbers[0], numbers[1]), (numbers[-2], numbers[-1])


def test_a_node_stands_behind_the_longest_way_to_it() -> None:
    assert columns(drawing("ab", "bc", "ac", "cd")) == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_what_nothing_leads_to_stands_just_before_what_it_leads_to() -> None:
    assert columns(drawing("ab", "bc", "xc")) == {"a": 0, "b": 1, "c": 2, "x": 1}


def test_in_a_circle_one_edge_leads_back() -> None:
    found = drawing("ab", "bc", "ca")
    assert columns(found) == {"a": 0, "b": 1, "c": 2}
    led = {line.edge[:2]: ends(line.path) for line in found.lines}
    assert [begin[0] < end[0] for begin, end in led.values()] == [True, True, False]


def test_what_leads_back_and_forth_between_two_is_two_lines() -> None:
    one, other = (line.path for line in drawing("ab", "ba").lines)
    assert {ends(one)[0][1], ends(one)[1][1]}.isdisjoint({ends(other)[0][1], ends(other)[1][1]})


def test_a_line_begins_and_ends_at_its_nodes() -> None:
    found = drawing("ab", "bc", "ac", "cd", "da")
    at = {box.node.id: box for box in found.boxes}
    for line in found.lines:
        (x, y), (to_x, to_y) = ends(line.path)
        start, end = at[line.edge.start], at[line.edge.end]
        assert x in (start.x, start.x + start.width)
        assert to_x in (end.x, end.x + end.width)
        assert start.y < y < start.y + start.height
        assert end.y < to_y < end.y + end.height


def test_a_line_that_passes_a_layer_keeps_away_from_its_nodes() -> None:
    found = drawing("ab", "bc", "ac")
    (long,) = (line.path for line in found.lines if line.edge[:2] == ("a", "c"))
    (passed,) = (box for box in found.boxes if box.node.id == "b")
    assert "L" in long
    (x, y) = map(int, re.search(r"L(\d+) (\d+)", long).groups())  # type: ignore[union-attr]
    assert x == passed.x + passed.width
    assert not passed.y <= y <= passed.y + passed.height


def test_what_does_not_belong_together_is_not_far_apart() -> None:
    found = drawing("ab", "bc", "bd", "be", "bf", "xy", "yz")
    tops = sorted({(box.y, box.y + box.height) for box in found.boxes})
    lowest = tops[0][1]
    for top, bottom in tops:
        assert top - lowest <= GAP
        lowest = max(lowest, bottom)


def test_edges_of_what_is_not_there_and_to_oneself_are_left_out() -> None:
    assert [line.edge[:2] for line in drawing("ab", "aa", "az", names="ab").lines] == [("a", "b")]


def test_nothing_is_a_picture_and_too_much_is_none() -> None:
    empty = draw([], [])
    assert empty is not None
    assert (empty.boxes, empty.lines) == ([], [])
    most = [Node(str(n), str(n), "step") for n in range(MOST_NODES)]
    assert draw(most, []) is not None
    assert draw([*most, Node("more", "more", "step")], []) is None


def test_a_long_text_is_cut_what_is_no_character_is_shown_and_wide_ones_have_room() -> None:
    found = draw([Node("a", "x" * 500, "type"), Node("b", "a\x00b\n", "type"), Node("c", "漢字" * 8, "type")], [])
    assert found is not None
    long, odd, wide = found.boxes
    assert len(long.label) < 40
    assert long.label.endswith("…")
    assert odd.label == "a\\x00b\\n"
    assert wide.width >= 16 * 2 * 8


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=30), st.data())
def test_whatever_leads_where_no_box_lies_on_another_and_all_is_within_the_picture(
    pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    notes = data.draw(st.sets(st.sampled_from(NAMES)))
    nodes = [Node(id, id * 3, "step", note="a note" if id in notes else "") for id in NAMES]
    edges = [Edge(*pair) for pair in pairs]
    found = draw(nodes, edges)
    assert found is not None
    assert found == draw(nodes, edges)
    assert [line.edge for line in found.lines] == [edge for edge in edges if edge.start != edge.end]
    for one, other in combinations(found.boxes, 2):
        apart = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert apart or one.y + one.height < other.y or other.y + other.height < one.y
    for box in found.boxes:
        assert BORDER <= box.x <= box.x + box.width <= found.width - BORDER
        assert BORDER <= box.y <= box.y + box.height <= found.height - BORDER
    at = columns(found)
    leads_on = [line for line in found.lines if ends(line.path)[0] < ends(line.path)[1]]
    assert all(at[line.edge.start] < at[line.edge.end] for line in leads_on)
