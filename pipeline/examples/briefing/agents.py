"""The briefing: a user asks a question, two researchers answer it together, and a message with the answer goes out.

user.query --> audit         one line for every event, whatever it is
           --> notifier  --> user.notified
           --> research      a join of `reference` and `library`; each publishes research.found
                         --> research.complete --> email   --> email.sent
                         --> research.failed   --> apology --> email.sent
digest.due --> digest        a chord of Celery's, of `asked` and `answered` --> digest.ready
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import textwrap
from datetime import timedelta
from pathlib import Path

from celery import chord
from celery.schedules import crontab
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline import ConfigError, Context, Event, Payload, Retry, default_app

from . import corpus, mail
from .search import Hit, Index

app = default_app()

#: Researchers read a disk and mail servers are away for minutes: worth a few more attempts than usual.
PATIENT = Retry(max=5, base=2.0, give_up_on=(mail.Refused,))
#: Practical questions are better answered by the library, others by the reference: by this factor.
PREFERENCE = 2.0
#: Characters of a question that are repeated in subjects and notices.
SHORTEN = 60
WORD_OF_THE_DAY = "How do context managers work?"

_PRACTICAL = re.compile(r"\bhow (?:to\b|(?:do|can|could|should|would|may) (?:i|we|you|one)\b)", re.IGNORECASE)


class BriefingSettings(BaseSettings):
    """What can be set for the briefing, as environment variables BRIEFING_*.

    Attributes:
        smtp_url: smtp://USER:PASSWORD@HOST:PORT, smtps://..., or smtp://...?starttls; empty writes files instead.
        mail_from: the sender's address.
        mail_domain: the domain of user ids that are no addresses themselves.
        outbox: where messages are written; default `briefing/outbox` in the pipeline's directory.
        state: where the audit log and the search indexes lie; default `briefing` in the pipeline's directory.

    """

    model_config = SettingsConfigDict(env_prefix="BRIEFING_", frozen=True)

    smtp_url: str = Field(default="", repr=False, pattern=r"^(smtps?://[^/?]+/?(\?starttls)?)?$")
    mail_from: str = "briefing@example.org"
    mail_domain: str = Field(default="example.org", pattern=r"^[A-Za-z0-9.-]+$")
    outbox: Path | None = None
    state: Path | None = None

    @property
    def state_directory(self) -> Path:
        """Return where the audit log and the indexes lie."""
        return (self.state or app.settings.directory / "briefing").absolute()

    @property
    def outbox_directory(self) -> Path:
        """Return where messages are written when no mail server is set."""
        return (self.outbox or app.settings.directory / "briefing" / "outbox").absolute()


def settings() -> BriefingSettings:
    """Read the settings; raise ConfigError that names the wrong variable, not its value."""
    try:
        return BriefingSettings()
    except ValidationError as exc:
        names = ", ".join(f"BRIEFING_{str(error['loc'][0]).upper()}: {error['msg']}" for error in exc.errors())
        raise ConfigError(names) from None


# -- what happens


class UserQuery(Payload, type="user.query"):
    """A user asked a question."""

    user_id: str = Field(min_length=1, max_length=64, pattern=r"^[^\s\x00-\x1f\x7f]+$")
    query: str = Field(min_length=1, max_length=2000)
    session_id: str | None = Field(default=None, max_length=200)


class UserNotified(Payload, type="user.notified"):
    """The user's session was told something."""

    user_id: str
    session_id: str | None
    message: str


class Source(BaseModel):
    """Where an answer comes from, and which share of the question (0 to 1) it covers."""

    model_config = ConfigDict(frozen=True)

    title: str
    relevance: float


class Finding(Payload, type="research.found"):
    """What one researcher found; without sources, that it knows nothing about the question."""

    researcher: str
    title: str = ""
    summary: str
    sources: tuple[Source, ...] = ()
    score: float = 0.0


class ResearchComplete(Payload, type="research.complete"):
    """All researchers are done."""

    original: UserQuery
    results: dict[str, Finding]


class ResearchFailed(Payload, type="research.failed"):
    """A researcher gave up."""

    original: UserQuery
    error: str


class EmailSent(Payload, type="email.sent"):
    """A message is in the outbox directory (`path`) or was taken by the mail server."""

    user_id: str
    session_id: str | None
    original_query: str
    to: str
    subject: str
    path: str | None = None


# -- who reacts


@app.agent(on="#")
def audit(event: Event) -> None:
    """Append every event to the audit log; after a crash a line may be there twice, with the same id."""
    append_line(settings().state_directory / "audit.jsonl", event.encode())


@app.agent(on=UserQuery)
def notifier(query: UserQuery) -> UserNotified:
    """Acknowledge the question to the user's session."""
    message = f"We are looking into: {shortened(query.query)}"
    return UserNotified(user_id=query.user_id, session_id=query.session_id, message=message)


@app.agent(retry=PATIENT)
def reference(query: UserQuery, ctx: Context) -> Finding:
    """Look the question up in Python's language reference."""
    hits = index("reference").search(query.query)
    return research(ctx, "the language reference", hits, preferred=not is_practical(query.query))


@app.agent(retry=PATIENT)
def library(query: UserQuery, ctx: Context) -> Finding:
    """Look the question up in the docstrings of the standard library."""
    hits = index("library").search(query.query)
    return research(ctx, "the standard library", hits, preferred=is_practical(query.query))


app.join("research", on=UserQuery, agents=[reference, library], emits=ResearchComplete)


@app.agent(on=ResearchComplete, retry=PATIENT)
def email(done: ResearchComplete, ctx: Context) -> EmailSent:
    """Send the user one message with what the researchers found, the best answer first."""
    findings = sorted(done.results.values(), key=lambda finding: -finding.score)
    sections = [mail.Section(heading(f), f.summary, tuple(s.title for s in f.sources)) for f in findings]
    return deliver(ctx, done.original, f"Your briefing: {shortened(done.original.query)}", sections)


@app.agent(on=ResearchFailed, retry=PATIENT)
def apology(failed: ResearchFailed, ctx: Context) -> EmailSent:
    """Tell the user that there will be no answer; the error itself is for the operators."""
    text = "We could not research your question. The people who run this service have been told; please try again."
    subject = f"No briefing: {shortened(failed.original.query)}"
    return deliver(ctx, failed.original, subject, [mail.Section("We are sorry", text)])


@app.agent()
def asked(week: Event) -> int:
    """Count the questions of the week before."""
    return number_of(UserQuery, week)


@app.agent()
def answered(week: Event) -> int:
    """Count the messages of the week before."""
    return number_of(EmailSent, week)


@app.agent(on="digest.due")
def digest(event: Event) -> None:
    """Let two agents count, in a canvas of Celery's own that ends in an event; `research` is a durable join."""
    chord([asked.s(event), answered.s(event)], app.emit("digest.ready", cause=event)).delay()


app.schedule("digest", crontab(hour=8, minute=0, day_of_week="mon"), "digest.due", {})
app.schedule("word-of-the-day", crontab(hour=7, minute=0), UserQuery(user_id="everyone", query=WORD_OF_THE_DAY))


# -- how they do it


def index(name: str) -> Index:
    """Return a researcher's index; the file is built by the first search that needs it."""
    directory = settings().state_directory
    if name == "library":
        return Index(directory, name, corpus.library, lead=True)
    return Index(directory, name, corpus.reference)


def research(ctx: Context, researcher: str, hits: list[Hit], *, preferred: bool) -> Finding:
    """Return what was found, and publish it at once so that progress is visible."""
    finding = Finding(researcher=researcher, summary=f"{researcher.capitalize()} does not speak about this.")
    if hits:
        finding = Finding(
            researcher=researcher,
            title=hits[0].title,
            summary=hits[0].summary,
            sources=tuple(Source(title=hit.title, relevance=hit.relevance) for hit in hits),
            score=hits[0].score * (PREFERENCE if preferred else 1.0),
        )
    ctx.publish(finding)
    return finding


def number_of(what: type[Payload], week: Event) -> int:
    """Return how many events there were in the week before another one."""
    return sum(1 for _ in app.get_events(type=what, since=week.time - timedelta(days=7), up_to=week.time))


def heading(finding: Finding) -> str:
    """Return what stands above a finding in the message."""
    name = finding.researcher.capitalize()
    return f"{name}: {finding.title}" if finding.title else name


def is_practical(question: str) -> bool:
    """Say whether somebody wants to do something ("how do I ..."), not to understand it."""
    return bool(_PRACTICAL.search(question))


def deliver(ctx: Context, query: UserQuery, subject: str, sections: list[mail.Section]) -> EmailSent:
    """Send the message, or write it to the outbox directory; repeated, it is the same message."""
    now = settings()
    message = mail.compose(
        sender=now.mail_from,
        to=mail.address_of(query.user_id, now.mail_domain),
        subject=subject,
        greeting=f"You asked: {query.query}",
        sections=sections,
        id=ctx.delivery_id,
        date=ctx.event.time,
    )
    path = None
    if now.smtp_url:
        mail.send(now.smtp_url, message)
    else:
        path = str(mail.write(now.outbox_directory / f"{ctx.delivery_id}.eml", message))
    return EmailSent(
        user_id=query.user_id,
        session_id=query.session_id,
        original_query=query.query,
        to=message["To"],
        subject=subject,
        path=path,
    )


def append_line(path: Path, line: bytes) -> None:
    """Append one line as a whole, whatever other threads and processes append; raise OSError when it cannot be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = os.fstat(file.fileno()).st_size
        try:
            if file.write(line + b"\n") != len(line) + 1:
                raise OSError(errno.ENOSPC, "the line could not be written as a whole", str(path))
        except OSError:
            file.truncate(end)  # half a line would spoil the next one
            raise


def shortened(text: str) -> str:
    """Return the text on one line, cut at a word where it is long."""
    return textwrap.shorten(text, SHORTEN, placeholder=" …")
