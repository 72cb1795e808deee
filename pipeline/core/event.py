"""Events and payloads: one frozen CloudEvents 1.0 envelope around typed or untyped data."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple, Self

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import EventTooLarge, InvalidEvent
from .ids import new_id
from .topics import check_type

CONTENT_TYPE = "application/cloudevents+json"
DEFAULT_PRIORITY = 5

_SEMVER = re.compile(r"\d+\.\d+\.\d+")


class Payload(BaseModel):
    """Base of typed payloads: `class UserQuery(Payload, type="user.query", version="1.0.0")`.

    A class that neither has nor inherits a `type=` cannot be published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    event_type: ClassVar[str] = ""
    schema_version: ClassVar[str] = "1.0.0"

    def __init_subclass__(cls, type: str | None = None, version: str | None = None, **kwargs: Any) -> None:
        """Check and keep the class's event type and schema version; what is not given is inherited."""
        super().__init_subclass__(**kwargs)
        for name in ("event_type", "schema_version"):
            if name in inspect.get_annotations(cls):
                raise InvalidEvent(f"{cls.__name__}.{name}: a payload cannot have a field of that name; rename it")
        if type is not None:
            cls.event_type = check_type(type)
        if version is not None and not _SEMVER.fullmatch(version):
            raise InvalidEvent(f"version: {version!r} of {cls.__name__} is not a semantic version such as '1.0.0'")
        cls.schema_version = version or cls.schema_version


class Event(BaseModel):
    """Something that happened: a CloudEvents 1.0 envelope with this bus's extension attributes.

    Attributes:
        priority: 1 (most urgent) to 10.
        correlation_id: shared by everything that one first event caused.
        causation_id: the event that directly caused this one.
        targets: names of the only agents that may receive the event; empty means all.
        hops: how many events lie between this one and the first of its correlation.
        sent: False when publish() has accepted the event but the broker is away: it is sent as soon as that is back.

    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    specversion: str = Field(default="1.0", pattern=r"^1\.0$")
    id: str = Field(min_length=1, max_length=255)
    type: str
    source: str = Field(min_length=1)
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    datacontenttype: str = "application/json"
    subject: str | None = Field(default=None, min_length=1)
    data: Any = None
    #: CloudEvents allows binary data; this bus carries JSON only.
    data_base64: None = None
    correlation_id: str = Field(default="", alias="correlationid")
    causation_id: str | None = Field(default=None, alias="causationid")
    schema_version: str = Field(default="1.0.0", alias="schemaversion")
    priority: int = Field(default=DEFAULT_PRIORITY, ge=1, le=10)
    targets: tuple[str, ...] = ()
    hops: int = Field(default=0, ge=0)
    traceparent: str | None = None
    tracestate: str | None = None

    sent: ClassVar[bool] = True

    @field_validator("type")
    @classmethod
    def _type_is_dotted_words(cls, value: str) -> str:
        return check_type(value)

    @field_validator("targets", mode="before")
    @classmethod
    def _targets_from_text(cls, value: Any) -> Any:
        # CloudEvents attributes are scalars: on the wire the names are joined by commas.
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    def model_post_init(self, context: Any) -> None:
        """Let a first event be the start of its own correlation."""
        if not self.correlation_id:
            object.__setattr__(self, "correlation_id", self.id)

    def evolve(self, **changes: Any) -> Self:
        """Return a validated copy with `changes`."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def marked(self, *, sent: bool) -> Self:
        """Return the event with a note whether the broker has it; what the event says stays as it is."""
        if self.sent is sent:
            return self
        copy = self.model_copy()
        object.__setattr__(copy, "sent", sent)
        return copy

    def attributes(self) -> dict[str, Any]:
        """Return the CloudEvents JSON attributes, without those that are absent."""
        attributes = {
            "specversion": self.specversion,
            "id": self.id,
            "type": self.type,
            "source": self.source,
            "time": self.time,
            "datacontenttype": self.datacontenttype,
            "subject": self.subject,
            "correlationid": self.correlation_id,
            "causationid": self.causation_id,
            "schemaversion": self.schema_version,
            "priority": self.priority,
            "targets": ",".join(self.targets) or None,
            "hops": self.hops,
            "traceparent": self.traceparent,
            "tracestate": self.tracestate,
        }
        present = {name: value for name, value in attributes.items() if value is not None}
        present["data"] = self.data
        return present

    def encode(self) -> bytes:
        """Return the event as CloudEvents JSON; raise InvalidEvent when the data is not JSON."""
        try:
            return orjson.dumps(self.attributes(), option=orjson.OPT_UTC_Z)
        except TypeError as exc:
            raise InvalidEvent(f"data: {exc}; event data is JSON: numbers, text, lists, objects") from exc

    def encoded(self, limit: int, bus: dict[str, Any] | None = None) -> Encoded:
        """Return the event ready for the wire; raise InvalidEvent, or EventTooLarge above so many bytes."""
        body = self.encode()
        if len(body) > limit:
            raise EventTooLarge(
                f"data: event {self.type!r} takes {len(body):,} bytes, the limit is {limit:,}; "
                "put large content elsewhere and publish its address, or raise PIPELINE_MAX_EVENT_BYTES"
            )
        return Encoded(self, body, bus=bus)

    @classmethod
    def decode(cls, raw: str | bytes) -> Self:
        """Read one event from CloudEvents JSON; raise InvalidEvent that names the wrong field."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as exc:
            raise InvalidEvent(explain(exc, "event")) from exc

    def __json__(self) -> dict[str, Any]:
        """Let Celery's serializer carry an event as a task argument."""
        plain: dict[str, Any] = orjson.loads(self.encode())
        return plain


class Encoded(NamedTuple):
    """An event with its encoded body, ready for the log and for the wire.

    Attributes:
        agent: the only agent whose queue gets the message; None for everybody whom the event is for.
        bus: what the worker has to know about this message, beside the event.
        delivery: the delivery that emitted the event.
        replay: the replay that emitted it.

    """

    event: Event
    body: bytes
    agent: str | None = None
    bus: dict[str, Any] | None = None
    delivery: str | None = None
    replay: str | None = None


def explain(error: ValidationError, what: str) -> str:
    """Return one line that names the first wrong fields of `what`."""
    problems = []
    for e in error.errors(include_url=False):
        field = ".".join(map(str, e["loc"])) or what
        # Our own checks name the field themselves, and pydantic puts its words before theirs.
        problems.append(f"{field}: {e['msg'].removeprefix('Value error, ').removeprefix(f'{field}: ')}")
    others = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return f"{what} does not validate: {'; '.join(problems[:3])}{others}"


def new_event(
    what: Payload | str,
    data: Any = None,
    *,
    source: str,
    cause: Event | None = None,
    id: str | None = None,
    priority: int | None = None,
    correlation_id: str | None = None,
    subject: str | None = None,
    targets: tuple[str, ...] = (),
) -> Event:
    """Return a new event from a typed payload, or from an event type and JSON data.

    Correlation, priority and trace context are inherited from `cause`; what is given explicitly wins.
    Raises InvalidEvent that names the wrong field.
    """
    event_type, version, data = _content(what, data)
    attributes: dict[str, Any] = {"id": id or new_id(), "type": event_type, "source": source, "data": data}
    if cause is not None:
        attributes.update(
            correlation_id=cause.correlation_id,
            causation_id=cause.id,
            priority=cause.priority,
            hops=cause.hops + 1,
            traceparent=cause.traceparent,
            tracestate=cause.tracestate,
        )
    given = {"priority": priority, "correlation_id": correlation_id, "subject": subject}
    attributes.update({name: value for name, value in given.items() if value is not None})
    try:
        return Event(schemaversion=version, targets=targets, **attributes)
    except ValidationError as exc:
        raise InvalidEvent(explain(exc, "event")) from exc


def _content(what: Payload | str, data: Any) -> tuple[str, str, Any]:
    """Return event type, schema version and JSON data of what the caller wants to publish."""
    if isinstance(what, str):
        return what, "1.0.0", data
    if not isinstance(what, Payload):
        raise InvalidEvent(
            f"payload: a {type(what).__name__} cannot be published; pass a Payload instance, or an event type and data"
        )
    if not what.event_type:
        raise InvalidEvent(f"payload: {type(what).__name__} has no event type; declare it with type='...'")
    if data is not None:
        raise InvalidEvent("data: a typed payload already is the data; pass one of the two")
    return what.event_type, what.schema_version, what.model_dump(mode="json", by_alias=True, round_trip=True)
