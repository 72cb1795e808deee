"""The graph of types and agents: what leads where, as text and as an image that holds nothing but shapes and words."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.contracts.graph import AgentNode, Edge, ScheduleNode, System, TypeNode, edges_of, mermaid, nodes_of, svg

PLACED, PAID = TypeNode("order.placed"), TypeNode("order.paid")
SHOP = System(
    "shop",
    "events",
    (
        AgentNode("billing", "q", patterns=("order.placed",), sends=(PAID,)),
        AgentNode("audit", "q", patterns=("order.#", "order.placed", "parcel.*")),
        AgentNode("checks", "q", patterns=("order.placed",), members=("billing",)),
    ),
    (ScheduleNode("daily", PLACED),),
)
SVG = "{http://www.w3.org/2000/svg}"


def test_types_lead_to_agents_agents_to_what_they_send_joins_to_members() -> None:
    placed, paid = ("type", "order.placed"), ("type", "order.paid")
    billing, audit, checks = ("agent", "billing"), ("agent", "audit"), ("agent", "checks")
    assert edges_of(SHOP) == [
        Edge(placed, billing, "receives"),
        Edge(billing, paid, "sends"),
        Edge(placed, audit, "receives"),
        Edge(paid, audit, "receives"),
        Edge(("type", "parcel.*"), audit, "receives"),
        Edge(placed, checks, "receives"),
        Edge(checks, billing, "joins"),
        Edge(("schedule", "daily"), placed, "sends"),
    ]


def test_a_pattern_is_a_node_only_where_it_matches_no_known_type() -> None:
    assert nodes_of(SHOP)[:3] == [("type", "order.placed"), ("type", "order.paid"), ("type", "parcel.*")]


def test_two_versions_of_a_type_are_sent_along_one_line() -> None:
    both = AgentNode("both", "q", sends=(TypeNode("a", version="1.0.0"), TypeNode("a", version="2.0.0")))
    assert edges_of(System("s", "events", (both,))) == [Edge(("agent", "both"), ("type", "a"), "sends")]


def test_one_pattern_that_looks_like_a_match_of_another_is_not_received() -> None:
    both = System("s", "events", (AgentNode("a", "q", patterns=("x.*",)), AgentNode("b", "q", patterns=("x.#",))))
    assert [(edge.start[1], edge.end[1]) for edge in edges_of(both)] == [("x.*", "a"), ("x.#", "b")]


# -- Mermaid


def test_the_mermaid_text_has_every_node_and_edge() -> None:
    assert mermaid(SHOP).splitlines() == [
        "flowchart LR",
        '    type0["order.placed"]',
        '    type1["order.paid"]',
        '    type2["parcel.#42;"]',
        '    agent3(["billing"])',
        '    agent4(["audit"])',
        '    agent5(["checks"])',
        '    schedule6[/"daily"/]',
        "    type0 --> agent3",
        "    agent3 -.-> type1",
        "    type0 --> agent4",
        "    type1 --> agent4",
        "    type2 --> agent4",
        "    type0 --> agent5",
        "    agent5 ==> agent3",
        "    schedule6 -.-> type0",
    ]


@given(st.text(max_size=20))
def test_no_name_means_anything_to_mermaid(name: str) -> None:
    lines = mermaid(System("s", "events", (), (ScheduleNode(name, PLACED),))).split("\n")
    assert len(lines) == 5
    assert re.fullmatch(r'    schedule1\[/"([\w .-]|#\d+;)*"/\]', lines[2])


# -- SVG


def read(system: System) -> ElementTree.Element:
    return ElementTree.fromstring(svg(system))


def test_the_image_shows_types_on_the_left_and_agents_on_the_right() -> None:
    places = {each.text: float(each.attrib["x"]) for each in read(SHOP).iter(f"{SVG}text")}
    left = {places[name] for name in ("order.placed", "order.paid", "parcel.*")}
    right = {places[name] for name in ("billing", "audit", "checks", "daily")}
    assert len(left) == len(right) == 1
    assert max(left) < min(right)


def test_every_edge_is_a_line_that_says_what_it_is() -> None:
    lines = [each.findtext(f"{SVG}title") for each in read(SHOP).iter(f"{SVG}path") if "marker-end" in each.attrib]
    assert len(lines) == len(edges_of(SHOP))
    assert "billing receives order.placed" in lines
    assert "billing sends order.paid" in lines
    assert "checks joins billing" in lines


def test_a_line_leads_from_box_to_box() -> None:
    image = read(SHOP)
    boxes = {}
    for group in image.iter(f"{SVG}g"):
        box = group.find(f"{SVG}rect")
        assert box is not None
        x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        boxes[group.findtext(f"{SVG}text")] = (x, x + width, y, y + height)
    (line,) = [each for each in image.iter(f"{SVG}path") if each.findtext(f"{SVG}title") == "audit receives order.paid"]
    *start, _, _, _, _, end_x, end_y = map(float, re.findall(r"[\d.-]+", line.attrib["d"]))
    left, right = boxes["order.paid"], boxes["audit"]
    assert start[0] == left[1]
    assert left[2] < start[1] < left[3]
    assert end_x == right[0]
    assert right[2] < end_y < right[3]


def test_nothing_is_drawn_outside_the_image_or_over_something_else() -> None:
    wide = AgentNode("a" * 60, "q", patterns=("x" * 200,))
    image = read(System("s", "events", (wide, *SHOP.agents)))
    boxes = [each.find(f"{SVG}rect") for each in image.iter(f"{SVG}g")]
    corners = [[float(box.attrib[name]) for name in ("x", "y", "width", "height")] for box in boxes if box is not None]
    for x, y, width, height in corners:
        assert x >= 0
        assert y >= 0
        assert x + width <= float(image.attrib["width"])
        assert y + height <= float(image.attrib["height"])
    for n, (x, y, width, height) in enumerate(corners):
        for other_x, other_y, other_width, other_height in corners[:n]:
            apart = (
                x + width < other_x or other_x + other_width < x or y + height < other_y or other_y + other_height < y
            )
            assert apart


@given(st.text(max_size=30) | st.sampled_from(["<script>alert(1)</script>", "]]>&amp;<!--", '"/><image href="x"']))
@example("\0\ufffe\uffff\u202e")
@settings(deadline=None)
def test_an_image_holds_no_script_whatever_things_are_called(name: str) -> None:
    image = read(System(name, "events", SHOP.agents, (ScheduleNode(name, PLACED),)))
    allowed = {"svg", "title", "defs", "marker", "path", "rect", "g", "text"}
    assert {each.tag.removeprefix(SVG) for each in image.iter()} <= allowed
    assert not any(each.lower().startswith("on") or "href" in each for part in image.iter() for each in part.attrib)


def test_an_app_without_agents_has_an_image_too() -> None:
    assert read(System("empty", "events")).findtext(f"{SVG}title") == "Agents and event types of empty"
    assert mermaid(System("empty", "events")) == "flowchart LR\n"
