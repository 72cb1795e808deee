"""Who may do what over HTTP: tokens, other sites, and apps in which the front is mounted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from pipeline import Pipeline
from pipeline.http import Token, front, new_token
from tests.http import Server, running, served


@pytest.fixture
def tokens(app: Pipeline) -> Iterator[tuple[Server, dict[str, str]]]:
    made = {scope: new_token(scope, [scope]) for scope in ("publish", "read", "operate")}
    with served(app, tokens=[token for _, token in made.values()]) as one:
        yield one, {scope: text for scope, (text, _) in made.items()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("headers", [{}, bearer("x"), {"Authorization": "Basic x"}, bearer(""), {"Authorization": ""}])
def test_without_a_right_token_nothing_is_said(tokens: tuple[Server, dict[str, str]], headers: dict[str, str]) -> None:
    server, _ = tokens
    said = server.call("GET", "/events", headers=headers)
    assert (said.status, said.data["detail"], said.headers["www-authenticate"]) == (401, "a token is needed", "Bearer")
    assert server.post("/events", {"type": "a.b"}, headers).status == 401
    assert server.call("GET", "/healthz", headers=headers).status == 200


def test_a_token_allows_what_its_scopes_say(app: Pipeline, tokens: tuple[Server, dict[str, str]]) -> None:
    server, texts = tokens
    asked = {
        "publish": ("POST", "/events", {"type": "a.b"}),
        "read": ("GET", "/events", None),
        "operate": ("POST", "/agents/x/pause", None),
    }
    for scope, text in texts.items():
        for needed, (method, path, data) in asked.items():
            said = server.call(method, path, data, bearer(text))
            assert (said.status == 403) is (scope != needed), (scope, needed)
            if said.status == 403:
                assert said.data["scope"] == needed
    assert len(list(app.get_events())) == 1


def test_a_token_is_not_kept_and_its_setting_lets_it_in(app: Pipeline) -> None:
    text, token = new_token("shop", ["publish", "read"])
    assert text not in str(token) + repr(token)
    assert Token.read(str(token)) == token
    assert token.digest not in repr(token)


def test_a_page_of_another_site_changes_nothing_and_no_other_name_leads_here(app: Pipeline, server: Server) -> None:
    crossed = server.post("/events", {"type": "a.b"}, {"Origin": "https://evil.example"})
    renamed = server.post("/events", {"type": "a.b"}, {"Host": "evil.example"})
    assert (crossed.status, renamed.status) == (403, 421)
    assert list(app.get_events()) == []
    assert server.post("/events", {"type": "a.b"}, {"Origin": server.url}).status == 201


def test_it_stands_under_a_path_of_another_app(app: Pipeline) -> None:
    outer = FastAPI()
    outer.mount("/bus", front(app, hosts=None))
    with running(outer) as server:
        said = server.post("/bus/events", {"type": "a.b"})
        assert server.get(said.headers["location"]).data["id"] == said.data["event_id"]
        assert server.get("/bus/events/x").headers["content-type"] == "application/problem+json"
        page = server.get("/bus/ui/")
        assert (page.status, b'href="/bus/ui/agents"' in page.body) == (200, True)
        assert server.get("/bus/ui").headers["location"] == "/bus/ui/"
        assert server.get("/bus/ui/events/x").status == 404
        assert b'href="/bus/ui/"' in server.get("/bus/ui/nothing").body


def test_each_caller_publishes_and_changes_so_much_and_reads_as_he_likes(app: Pipeline) -> None:
    made = {name: new_token(name, ["publish", "read", "operate"]) for name in ("one", "two")}
    with served(app, tokens=[token for _, token in made.values()], rate=0.001) as server:
        one, two = (bearer(text) for text, _ in made.values())
        sent = [server.post("/events", {"type": "a.b"}, one) for _ in range(2)]
        assert [answer.status for answer in sent] == [201, 429]
        assert (sent[1].data["type"], sent[1].headers["content-type"]) == (
            "urn:pipeline:problem:too-many-requests",
            "application/problem+json",
        )
        assert 1 <= int(sent[1].headers["retry-after"]) <= 1000
        assert server.post("/agents/x/pause", None, one).status == 429
        page = server.post("/ui/agents/x/pause", None, one)
        assert (page.status, page.headers["content-type"][:9], "retry-after" in page.headers) == (
            429,
            "text/html",
            True,
        )
        assert [server.call("GET", "/events", headers=one).status for _ in range(9)] == [200] * 9
        assert server.post("/events", {"type": "a.b"}, two).status == 201


def test_without_tokens_a_caller_is_an_address(server: Server, app: Pipeline) -> None:
    with served(app, rate=0.001) as limited:
        assert [limited.post("/events", {"type": "a.b"}).status for _ in range(2)] == [201, 429]
        forwarded = {"X-Forwarded-For": "192.0.2.1"}  # by a proxy on this machine, which uvicorn believes
        assert [limited.post("/events", {"type": "a.b"}, forwarded).status for _ in range(2)] == [201, 429]
    assert [server.post("/events", {"type": "a.b"}).status for _ in range(9)] == [201] * 9


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/ui/nothing", "/ui/events/", "/ui/agents/x/y/z", "/ui/a/b/c?d=e"])
def test_a_page_that_there_is_not_is_said_on_one(server: Server, method: str, path: str) -> None:
    said = server.call(method, path)
    assert (said.status, said.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b"there is no page" in said.body
    assert "default-src 'none'" in said.headers["content-security-policy"]


def test_where_tokens_are_set_a_page_that_there_is_not_asks_for_one(tokens: tuple[Server, dict[str, str]]) -> None:
    said = tokens[0].get("/ui/nothing")
    assert (said.status, said.headers["location"]) == (303, "/ui/login?to=/ui/nothing")
