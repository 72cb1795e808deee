"""Events that filters are tried on, and what a filter comes to."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pipeline.agents.filters import Failed, Filter, parse

DATA = {
    "symbol": "AAPL",
    "urgency": 2,
    "priority": "high",
    "domain": "financial",
    "volume": 1600,
    "average": 1000.0,
    "headline": "Volatility is back",
    "active": True,
    "nothing": None,
    "tags": ["risk", "Daily"],
    "scores": [1, 5],
    "empty": [],
    "user": {"name": "Ada", "ip": "10.1.2.3"},
    "items": [{"sku": "A", "price": 5}, {"sku": "B", "price": 500, "notes": ["late"]}],
    "due": "2026-01-31T10:30:00+01:00",
    "user-id": "u1",
    "a.b": 1,
}


def event(data: Any = DATA, **attributes: Any) -> dict[str, Any]:
    """Return an event as its JSON is decoded; an attribute that is None is left out."""
    found = {
        "specversion": "1.0",
        "id": "e1",
        "type": "alert.raised",
        "source": "/monitoring",
        "time": "2026-01-31T09:30:00Z",
        "correlationid": "c1",
        "priority": 5,
        "hops": 0,
        "data": data,
        **attributes,
    }
    return {name: value for name, value in found.items() if value is not None}


def result(where: Any, on: dict[str, Any] | None = None) -> bool | str | None:
    """Return what a filter comes to: True, False, None for missing, or the error."""
    found = parse(where).test(event() if on is None else on)
    return found.error if isinstance(found, Failed) else found


# -- what property tests draw from

_VALUES = st.sampled_from(["x", "X", "high", "low", 1, 2.5, True, False, None, [], ["x", 3], {"y": "x"}, {"y": [1]}])
EVENTS = st.builds(
    lambda data, subject: event(data, subject=subject),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), _VALUES, max_size=3) | st.none(),
    st.sampled_from(["x", "y", None]),
)
_LITERALS = st.sampled_from(["x", "high", 1, 2, True, None, "2026-01-31T09:30:00Z"])
_PATHS = st.sampled_from(["a", "b", "c", "a.y", "event.subject"])


@st.composite
def _conditions(draw: st.DrawFn) -> Any:
    path = draw(_PATHS)
    if path == "event.subject":
        return {path: {draw(st.sampled_from(["$eq", "$ne", "$prefix"])): "x"}}
    op = draw(
        st.sampled_from(["$eq", "$ne", "$gt", "$lte", "$in", "$nin", "$exists", "$prefix", "$contains", "$regex"])
    )
    if op in ("$gt", "$lte"):
        return {path: {op: draw(st.sampled_from(["x", "high", 1, 2]))}}
    if op in ("$prefix", "$contains", "$regex"):
        return {path: {op: "x"}}
    if op in ("$in", "$nin"):
        return {path: {op: draw(st.lists(_LITERALS, min_size=1, max_size=3))}}
    return {path: {op: draw(st.booleans()) if op == "$exists" else draw(_LITERALS)}}


CONDITIONS = _conditions() | st.sampled_from(
    [{"$expr": "a > 2 * b"}, {"$jsonpath": "$.data.a[?@ == 3]"}, {"sql": "subject = 'x'"}]
)
MAPPINGS: st.SearchStrategy[Any] = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=6,
)
FILTERS: st.SearchStrategy[Filter] = st.builds(parse, MAPPINGS)
