"""The OpenAPI document holds: whatever is sent, by it or against it, is answered as it says, and breaks nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from pipeline import Pipeline
from pipeline.http import front
from tests.records import die, run_agents

#: Requests to each route, of which those with an id in their path have a real one half of the time.
REQUESTS = 8
BOUNDED = settings(
    max_examples=REQUESTS,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def lived_in(app: Pipeline) -> dict[str, list[str]]:
    """Let something have happened in an app; return the ids that there are, by the first word of a path."""
    placed = [app.publish("order.placed", {"order_id": f"A{n}"}) for n in range(4)]
    run_agents(app, {"billing": "order.#", "stock": "order.placed"})
    app.subscriptions.add("crm", on="bill.*", url="http://127.0.0.1:9/")
    flows = [app.collaborate(pattern, ["billing", "stock"], {"n": 1}) for pattern in ("publish-subscribe", "saga")]
    return {
        "events": [event.id for event in placed],
        "trees": [event.id for event in placed],
        "agents": ["billing", "stock", "crm"],
        "dead-letters": [die(app, event) for event in placed],
        "flows": flows,
        "collaborations": flows,
    }


def placed(case: Any, id: str | None) -> Any:
    if id is not None:
        case.path_parameters["id"] = id
    return case


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_whatever_is_sent_is_answered_as_the_document_says_and_is_no_error_of_the_server(
    app: Pipeline, mode: str
) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as openapi

    held_to = [
        checks.not_a_server_error,
        openapi.status_code_conformance,
        openapi.content_type_conformance,
        openapi.response_schema_conformance,
    ]
    ids, answered = lived_in(app), Counter[int]()
    document = schemathesis.openapi.from_asgi("/openapi.json", front(app, hosts=None))
    for found in document.get_all_operations():
        route = found.ok()
        if route.path in ("/stream", "/agui") or (mode == "negative" and not (list(route.query) or list(route.body))):
            continue  # it has no end; there is nothing to be wrong with it
        real = ids.get(route.path.split("/")[1], []) if "{id}" in route.path else []
        cases = route.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        @BOUNDED
        @given(st.builds(placed, cases, st.none() | st.sampled_from(real) if real else st.none()))
        def answers(case: Any) -> None:
            answer = case.call()
            answered[answer.status_code] += 1
            case.validate_response(answer, checks=held_to)

        try:
            answers()
        except Unsatisfiable:
            assert route.path == "/hooks/{source}", "whatever it is sent is what it says that it takes"
    assert answered[200 if mode == "positive" else 422] > 50, "it got nowhere"


def test_the_document_says_what_an_answer_is_and_how_every_route_says_what_is_wrong(app: Pipeline) -> None:
    for path, methods in front(app).openapi()["paths"].items():
        for one in methods.values():
            assert list(one["responses"].pop("default")["content"]) == ["application/problem+json"]
            assert set(one["responses"]) <= {"200", "201", "202"}, path
            for answer in one["responses"].values():
                schema = answer.get("content", {}).get("application/json", {"schema": {}})["schema"]
                assert schema.get("type") != "string", path
