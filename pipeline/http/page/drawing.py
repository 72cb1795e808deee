"""Where the nodes of a graph stand, and the lines between them: layers from left to right, the same each time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple
from unicodedata import east_asian_width

from ...core.errors import visible

#: Nodes that can still be told apart; of more there is no picture.
MOST_NODES = 60
#: Pixels: a character of the fixed-width font, a node with one line and with two, what lies between nodes, between
#: layers, and around all of it.
CHARACTER, LOW, HIGH, GAP, BETWEEN, BORDER = 8, 30, 46, 16, 72, 8
#: The height of a line that passes a layer.
THIN = 8
#: How far what leads back is from what leads on, where both are at one node.
ASIDE = 4
#: Characters of a label that are shown; the whole stands in its title.
MOST_CHARACTERS = 32
#: How often the nodes of each layer are put beside what they belong to.
SWEEPS = 6


class Node(NamedTuple):
    """What is drawn as a box.

    Attributes:
        label: what stands in it.
        kind: its form: agent, type, schedule, step, undo, start, end.
        state: what has become of it, as the colours of the page know it.
        note: a second line, the state in words.
        link: a path of the page that it leads to.

    """

    id: str
    label: str
    kind: str
    state: str = ""
    note: str = ""
    link: str = ""


class Edge(NamedTuple):
    """What leads from one node to another; `said` is that in words."""

    start: str
    end: str
    kind: str = ""
    said: str = ""


class Box(NamedTuple):
    """Where a node stands, with its texts as they fit in (pixels)."""

    node: Node
    x: int
    y: int
    width: int
    height: int
    label: str
    note: str

    @property
    def middle(self) -> int:
        """The height at which lines come and go."""
        return self.y + self.height // 2


class Line(NamedTuple):
    """An edge as a path of SVG."""

    edge: Edge
    path: str


@dataclass(frozen=True)
class Drawing:
    """A graph, laid out (pixels)."""

    width: int
    height: int
    boxes: Sequence[Box]
    lines: Sequence[Line]


#: What stands in a layer: a node by its id, or an edge that passes it, by its number and the layer's.
_Place = str | tuple[int, int]
#: The place that an edge leads over, from layer to layer.
_Chain = list[_Place]


def draw(nodes: Sequence[Node], edges: Sequence[Edge]) -> Drawing | None:
    """Return where each node stands; None for too many nodes.

    A node stands behind all that lead to it: its layer is the longest way there. In a circle one edge leads back. Edges
    of a node that is not there, and those from a node to itself, are left out.
    """
    known = {node.id: node for node in nodes}
    if len(known) > MOST_NODES:
        return None
    kept = [edge for edge in edges if edge.start != edge.end and {edge.start, edge.end} <= known.keys()]
    order = _order(known, kept)
    ways = [(edge.start, edge.end) if order[edge.start] < order[edge.end] else (edge.end, edge.start) for edge in kept]
    layers = _layers(order, ways)
    chains = [_chain(number, *way, layers) for number, way in enumerate(ways)]
    columns = _columns(layers, chains)
    heights: dict[_Place, int] = {id: HIGH if node.note else LOW for id, node in known.items()}
    tops = _tops(columns, chains, heights)
    boxes = _boxes(columns, known, heights, tops)
    pairs = {(edge.start, edge.end) for edge in kept}
    lines = []
    for edge, chain in zip(kept, chains, strict=True):
        aside = ASIDE if (edge.end, edge.start) in pairs else 0
        leads_back = edge.start != chain[0]
        points = _points(chain, boxes, columns, tops, aside if leads_back else -aside)
        lines.append(Line(edge, _path(points[::-1] if leads_back else points)))
    width = max((box.x + box.width for box in boxes.values()), default=0)
    height = max((top + heights.get(place, THIN) for place, top in tops.items()), default=0)
    return Drawing(width + BORDER, height + BORDER, list(boxes.values()), lines)


def _order(ids: Iterable[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Return a number for each node, in an order in which as good as all edges lead on: only circles lead back."""
    before: dict[str, set[str]] = {id: set() for id in ids}
    for edge in edges:
        before[edge.end].add(edge.start)
    order: dict[str, int] = {}
    while left := [id for id in before if id not in order]:
        order[min(left, key=lambda id: len(before[id] - order.keys()))] = len(order)
    return order


def _layers(order: Mapping[str, int], ways: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return each node's layer: the longest way to it; what nothing leads to stands just before what it leads to."""
    layers = dict.fromkeys(order, 0)
    for id in order:
        layers[id] = max((layers[start] + 1 for start, end in ways if end == id), default=0)
    ends = {end for _, end in ways}
    for id in order:
        after = [layers[end] for start, end in ways if start == id]
        if after and id not in ends:
            layers[id] = min(after) - 1
    return layers


def _chain(number: int, start: str, end: str, layers: Mapping[str, int]) -> _Chain:
    """Return the places that an edge leads over: its nodes, and one in each layer between them."""
    return [start, *((number, layer) for layer in range(layers[start] + 1, layers[end])), end]


def _columns(layers: Mapping[str, int], chains: Sequence[_Chain]) -> list[list[_Place]]:
    """Return what stands in each layer, from above: beside what it belongs to, so that few lines cross."""
    columns: list[list[_Place]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for id, layer in layers.items():
        columns[layer].append(id)
    for place in (place for chain in chains for place in chain):
        if not isinstance(place, str):
            columns[place[1]].append(place)
    beside = _beside(chains)
    for sweep in range(SWEEPS):
        leads_on = sweep % 2 == 0
        for column in columns if leads_on else columns[::-1]:
            ranks = {place: rank for each in columns for rank, place in enumerate(each)}
            sides = {place: beside[place][0 if leads_on else 1] for place in column if place in beside}
            column.sort(key=lambda place: _mean([ranks[one] for one in sides.get(place, ())], ranks[place]))
    return columns


def _tops(
    columns: Sequence[Sequence[_Place]], chains: Sequence[_Chain], heights: Mapping[_Place, int]
) -> dict[_Place, int]:
    """Return the upper end of each place: as near to the height of what it belongs to as those above it allow."""
    beside = _beside(chains)
    middles: dict[_Place, float] = {}
    for sweep in range(SWEEPS + 1):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            wanted = [
                _mean([middles[one] for side in beside.get(place, ((), ())) for one in side if one in middles], 0.0)
                for place in column
            ]
            placed, free = [], float("-inf")
            for place, want in zip(column, wanted, strict=True):
                half = heights.get(place, THIN) / 2
                placed.append(max(want, free + half))
                free = placed[-1] + half + GAP
            # Who pushes the others down does not stay above: the whole layer moves to where it is wanted.
            moved = _mean([want - had for want, had in zip(wanted, placed, strict=True)], 0.0)
            middles |= {place: had + moved for place, had in zip(column, placed, strict=True)}
    return _closed({place: middle - heights.get(place, THIN) / 2 for place, middle in middles.items()}, heights)


def _closed(tops: Mapping[_Place, float], heights: Mapping[_Place, int]) -> dict[_Place, int]:
    """Return the upper ends with nothing empty between them that goes through all layers, from the border on."""
    found: dict[_Place, int] = {}
    moved, lowest = 0.0, float("-inf")
    for place, top in sorted(tops.items(), key=lambda one: one[1]):
        if top > lowest + GAP:
            moved = BORDER - top if not found else moved - (top - lowest - GAP)
        lowest = max(lowest, top + heights.get(place, THIN))
        found[place] = round(top + moved)
    return found


def _boxes(
    columns: Sequence[Sequence[_Place]],
    nodes: Mapping[str, Node],
    heights: Mapping[_Place, int],
    tops: Mapping[_Place, int],
) -> dict[_Place, Box]:
    """Return the boxes; those of one layer are as wide as the longest text in it."""
    boxes: dict[_Place, Box] = {}
    x = BORDER
    for column in columns:
        ids = [place for place in column if isinstance(place, str)]
        texts = {id: (_cut(nodes[id].label), _cut(nodes[id].note)) for id in ids}
        width = max(_cells(text) for both in texts.values() for text in both) * CHARACTER + 2 * GAP
        boxes |= {id: Box(nodes[id], x, tops[id], width, heights[id], *texts[id]) for id in ids}
        x += width + BETWEEN
    return boxes


def _points(
    chain: _Chain,
    boxes: Mapping[_Place, Box],
    columns: Sequence[Sequence[_Place]],
    tops: Mapping[_Place, int],
    aside: int,
) -> list[tuple[int, int]]:
    """Return the points that a line goes through: from its first node over both sides of each layer that it passes.

    Arguments:
        aside: how far from the middle of its nodes it begins and ends.

    """
    points: list[tuple[int, int]] = []
    for place in chain:
        if isinstance(place, str):
            box, y = boxes[place], boxes[place].middle + aside
        else:
            box = next(boxes[one] for one in columns[place[1]] if isinstance(one, str))
            y = tops[place] + THIN // 2
        points += [(box.x, y), (box.x + box.width, y)]
    return points[1:-1]


def _path(points: Sequence[tuple[int, int]]) -> str:
    """Return a line of SVG: curved between the layers, and straight where it passes one."""
    parts = [f"M{points[0][0]} {points[0][1]}"]
    for number, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
        bend = (x + to_x) // 2
        parts.append(f"L{to_x} {to_y}" if number % 2 else f"C{bend} {y} {bend} {to_y} {to_x} {to_y}")
    return "".join(parts)


def _beside(chains: Sequence[_Chain]) -> dict[_Place, tuple[list[_Place], list[_Place]]]:
    """Return for each place what leads to it, and what it leads to."""
    found: dict[_Place, tuple[list[_Place], list[_Place]]] = {}
    for chain in chains:
        for start, end in pairwise(chain):
            found.setdefault(start, ([], []))[1].append(end)
            found.setdefault(end, ([], []))[0].append(start)
    return found


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _cut(text: str) -> str:
    text = visible(text)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def _cells(text: str) -> int:
    """Return how many characters wide a text is: those of East Asia take the room of two."""
    return sum(2 if east_asian_width(one) in "WF" else 1 for one in text)
