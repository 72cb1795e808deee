"""The briefing example: what its agents answer, write and send."""

import email
import json
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from pipeline import ConfigError, Context, Event, InvalidEvent
from pipeline.agents.payloads import payload_of
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.core.retry import Again, Dead, decide
from pipeline.examples.briefing import agents as briefing
from pipeline.examples.briefing import mail
from pipeline.examples.briefing.agents import ResearchComplete, ResearchFailed, UserQuery


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRIEFING_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("BRIEFING_OUTBOX", str(tmp_path / "outbox"))
    monkeypatch.delenv("BRIEFING_SMTP_URL", raising=False)
    return tmp_path


def context(agent: str, payload: Any, **data: Any) -> Context:
    event = payload if isinstance(payload, Event) else new_event(payload, **data, source="/test")
    return Context(event, agent, delivery_id(event.id, agent), 1, f"/test/agent/{agent}", None)


def complete(query: str = "What is a <decorator>?", user_id: str = "ada") -> ResearchComplete:
    finding = {"researcher": "the standard library", "title": "csv", "summary": "Reads & writes.", "score": 1.0}
    best = {**finding, "title": "functools <b>", "score": 2.0, "sources": [{"title": "x", "relevance": 1.0}]}
    original = {"user_id": user_id, "query": query, "session_id": "s-1"}
    return ResearchComplete.model_validate({"original": original, "results": {"library": finding, "reference": best}})


def send(done: ResearchComplete, ctx: Context | None = None) -> tuple[Any, EmailMessage]:
    sent = briefing.email(done, ctx or context("email", done))
    parsed = email.message_from_bytes(Path(sent.path).read_bytes(), policy=default)
    assert isinstance(parsed, EmailMessage)
    return sent, parsed


# -- who listens to what


def test_the_agents_subscribe_to_what_the_picture_shows() -> None:
    found = {agent.name: agent.patterns for agent in briefing.app.agents}
    assert found["audit"] == ("#",)
    assert found["notifier"] == found["research"] == ("user.query",)
    assert found["reference"] == found["library"] == ()
    assert found["email"] == ("research.complete",)
    assert found["apology"] == ("research.failed",)


def test_a_question_is_scheduled_every_morning() -> None:
    _, payload, _ = briefing.app.schedules["word-of-the-day"]
    assert isinstance(payload, UserQuery)


def test_the_notifier_acknowledges_to_the_session() -> None:
    told = briefing.notifier(UserQuery(user_id="ada", query="What is a decorator?", session_id="s-1"))
    assert (told.event_type, told.session_id) == ("user.notified", "s-1")
    assert "What is a decorator?" in told.message


@pytest.mark.parametrize("user_id", ["", "two words", "line\nbreak", "x" * 65])
def test_a_user_id_that_could_not_stand_in_an_address_is_refused(user_id: str) -> None:
    with pytest.raises(ValueError, match="user_id"):
        UserQuery(user_id=user_id, query="q")


# -- research


def test_a_researcher_publishes_what_it_found_and_returns_it(place: Path) -> None:
    query = UserQuery(user_id="ada", query="What is a decorator?")
    ctx = context("reference", query)
    found = briefing.reference(query, ctx)
    assert [event.type for event in ctx.effects().events] == ["research.found"]
    assert ctx.effects().events[0].data == found.model_dump(mode="json")
    assert found.sources[0].title == found.title == "Function definitions"


def test_a_researcher_that_finds_nothing_says_so(place: Path) -> None:
    query = UserQuery(user_id="ada", query="What is the capital of France?")
    found = briefing.reference(query, context("reference", query))
    assert found.sources == ()
    assert "does not speak about this" in found.summary


def test_practical_questions_prefer_the_library() -> None:
    assert briefing.is_practical("How do I read a CSV file?")
    assert not briefing.is_practical("How do context managers work?")


# -- messages


def test_a_message_is_well_formed_and_has_the_best_answer_first(place: Path) -> None:
    done = complete()
    ctx = context("email", done)
    sent, message = send(done, ctx)
    assert message.defects == []
    assert message["To"] == sent.to == "ada@example.org"
    assert message["From"] == "briefing@example.org"
    assert message["Subject"] == sent.subject == "Your briefing: What is a <decorator>?"
    assert message["Message-ID"] == f"<{ctx.delivery_id}@example.org>"
    assert message["Date"].datetime == ctx.event.time.replace(microsecond=0)
    assert message.get_content_type() == "multipart/alternative"
    text = message.get_body(("plain",)).get_content()
    assert text.index("functools <b>") < text.index("csv")
    assert (sent.session_id, sent.original_query) == ("s-1", "What is a <decorator>?")


def test_what_users_and_sources_say_is_escaped_in_html(place: Path) -> None:
    _, message = send(complete("<script>alert(1)</script>"))
    html = message.get_body(("html",)).get_content()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "functools &lt;b&gt;" in html
    assert "Reads &amp; writes." in html


def test_a_question_cannot_add_headers(place: Path) -> None:
    _, message = send(complete("hello\r\nBcc: everyone@example.org"))
    assert message["Bcc"] is None
    assert message["Subject"] == "Your briefing: hello Bcc: everyone@example.org"


def test_a_repeated_delivery_writes_the_same_file(place: Path) -> None:
    done = complete()
    event = new_event(done, source="/test")
    first, _ = send(done, context("email", event))
    before = Path(first.path).read_bytes()
    second, _ = send(done, context("email", event))
    assert second == first
    assert Path(second.path).read_bytes() == before
    assert len(list((place / "outbox").iterdir())) == 1


def test_any_text_survives_the_message(place: Path) -> None:
    question = "Was heißt „Größe“? 日本語 " + "x" * 1500
    _, message = send(complete(question))
    assert "„Größe“? 日本語" in message.get_body(("plain",)).get_content()
    assert "日本語" in message["Subject"]


@pytest.mark.parametrize(
    ("user_id", "address"),
    [
        ("ada", "ada@example.org"),
        ("ada@lovelace.example", "ada@lovelace.example"),
        ("user:42", '"user:42"@example.org'),
        ("a@b@c", '"a@b@c"@example.org'),
    ],
)
def test_every_user_id_has_one_address(place: Path, user_id: str, address: str) -> None:
    sent, message = send(complete(user_id=user_id))
    assert sent.to == address
    assert len(message["To"].addresses) == 1
    assert message["To"].addresses[0].addr_spec == address


def test_an_address_may_have_letters_of_any_language(place: Path) -> None:
    sent = briefing.email(complete(user_id="jürgen"), context("email", complete()))
    assert "To: jürgen@example.org\r\n" in Path(sent.path).read_bytes().decode()  # RFC 6532


def test_the_user_is_told_when_research_fails_but_not_the_error(place: Path) -> None:
    failed = ResearchFailed(original=UserQuery(user_id="ada", query="q?"), error="OSError: /secret")
    sent = briefing.apology(failed, context("apology", failed))
    message = Path(sent.path).read_text()
    assert sent.event_type == "email.sent"
    assert "We are sorry" in message
    assert "/secret" not in message


def test_a_message_that_cannot_be_written_leaves_no_draft(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mail.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        send(complete())
    assert list((place / "outbox").iterdir()) == []


class Postbox:
    """Keeps what an SMTP server receives."""

    def __init__(self) -> None:
        self.received: list[tuple[list[str], bytes]] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.received.append((envelope.rcpt_tos, envelope.content))
        return self.answer


@pytest.fixture
def postbox() -> Iterator[tuple[Postbox, int]]:
    box = Postbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


def test_a_mail_server_gets_the_message_when_one_is_set(
    place: Path, postbox: tuple[Postbox, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    box, port = postbox
    monkeypatch.setenv("BRIEFING_SMTP_URL", f"smtp://127.0.0.1:{port}")
    done = complete()
    sent = briefing.email(done, context("email", done))
    [(receivers, content)] = box.received
    message = email.message_from_bytes(content, policy=default)
    assert receivers == ["ada@example.org"]
    assert message["Subject"] == "Your briefing: What is a <decorator>?"
    assert sent.path is None
    assert not (place / "outbox").exists()


def test_a_mail_server_that_refuses_for_good_is_not_asked_again(
    place: Path, postbox: tuple[Postbox, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    box, port = postbox
    monkeypatch.setenv("BRIEFING_SMTP_URL", f"smtp://127.0.0.1:{port}")
    done = complete()
    box.answer = "552 5.2.2 the mailbox is full"
    with pytest.raises(mail.Refused, match="the mailbox is full") as refused:
        briefing.email(done, context("email", done))
    assert isinstance(decide(0, refused.value, briefing.PATIENT, 0.5), Dead)
    box.answer = "451 4.3.2 too busy"
    with pytest.raises(smtplib.SMTPDataError) as busy:
        briefing.email(done, context("email", done))
    assert isinstance(decide(0, busy.value, briefing.PATIENT, 0.5), Again)


def test_a_mail_server_that_is_away_fails_the_attempt(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIEFING_SMTP_URL", "smtp://127.0.0.1:1")
    done = complete()
    with pytest.raises(ConnectionRefusedError):
        briefing.email(done, context("email", done))


def test_a_wrong_setting_is_named_without_its_value(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIEFING_SMTP_URL", "http://user:secret@host")
    with pytest.raises(ConfigError, match="BRIEFING_SMTP_URL") as caught:
        briefing.settings()
    assert "secret" not in str(caught.value)


# -- audit


def test_the_audit_log_has_every_event_as_one_line(place: Path) -> None:
    events = [new_event("a.b", {"text": "line\nbreak"}, source="/test"), new_event("c", None, source="/test")]
    for event in events:
        briefing.audit(event)
    lines = (place / "state" / "audit.jsonl").read_bytes().splitlines()
    assert [Event.decode(line) for line in lines] == events


def test_processes_that_audit_at_once_keep_their_lines_apart(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.examples.briefing.agents import append_line\n"
        "for _ in range(200): append_line(Path(sys.argv[1]), b'\"' + sys.argv[2].encode() * 9000 + b'\"')"
    )
    log = tmp_path / "new" / "audit.jsonl"
    running = [subprocess.Popen([sys.executable, "-c", code, str(log), letter]) for letter in "abc"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert sorted(lines) == sorted(letter * 9000 for letter in "abc" for _ in range(200))


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "audit.jsonl"
    briefing.append_line(log, b"whole")
    opened = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            return int(self.file.write(data[:3]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr(Path, "open", lambda *args, **options: Full(opened(*args, **options)))
    with pytest.raises(OSError, match="as a whole"):
        briefing.append_line(log, b"another")
    assert log.read_bytes() == b"whole\n"


def test_a_question_without_a_user_is_refused_by_the_field(place: Path) -> None:
    event = new_event("user.query", {"query": "q"}, source="/test")
    with pytest.raises(InvalidEvent, match="user_id"):
        payload_of(briefing.app.agents["notifier"], event, briefing.app.types)
