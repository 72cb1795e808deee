"""Events and payloads: one frozen CloudEvents 1.0 envelope around typed or untyped data."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from .door.attributes import NoBinary, checked, metadata_of, metadata_text, named
from .door.classes import Way, check_arrival, names_of, place_of, unknown_names, way_of
from .door.data import MAX_DEPTH, MAX_INTEGER, control_in, flaw, is_shallow, largest, other_class
from .errors import EventTooLarge, InvalidEvent, PipelineError, explain
from .ids import Seal, foreign_id, new_id
from .observe import Traced
from .times import utc_now
from .topics import check_type

CONTENT_TYPE = "application/cloudevents+json"
#: The extension attribute with the way of an event over bridges: each has added `BUS:BRIDGE`.
VIA = "bridgedvia"
DEFAULT_PRIORITY = 5

_SEMVER = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)

#: As long as the ledger's columns are, and AMQP's short strings (in ASCII), on every broker and database.
MAX_LENGTH = 255
#: W3C Trace Context asks for at least 512 characters of `tracestate` to be passed on.
MAX_TRACESTATE = 1024
#: Characters of all names in `targets` together: they travel in a header, and all headers in one AMQP frame.
MAX_TARGETS = 16_384
#: Room for every time zone, within the years that a datetime can be in.
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)

_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
#: As many digits as the largest integer has.
_LONG = b"0" * len(str(MAX_INTEGER))

_Text = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]
#: Says that an event was read: what other programs call their attributes is left to them.
_READ = "read"


class Payload(BaseModel):
    """Base of typed payloads: `class UserQuery(Payload, type="user.query", version="1.0.0")`.

    A class that neither has nor inherits a `type=` cannot be published. Calling it refuses names that are no fields;
    reading one, as agents do, ignores them: a newer version may have sent them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    event_type: ClassVar[str] = ""
    schema_version: ClassVar[str] = "1.0.0"

    if not TYPE_CHECKING:  # type checkers know the fields by themselves

        def __init__(self, /, **data: Any) -> None:
            known = names_of(type(self))
            if known is not None and not data.keys() <= known:
                raise unknown_names(type(self), data, known)
            super().__init__(**data)

        # As pydantic marks its own: otherwise it would call this one where it reads a payload, too.
        __init__.__pydantic_base_init__ = True

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

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class whose payloads would not arrive as they are sent, as soon as its fields are known."""
        super().__pydantic_init_subclass__(**kwargs)
        if cls.event_type and cls.__pydantic_complete__:
            way_of(cls)


class Event(BaseModel):
    """Something that happened: a CloudEvents 1.0 envelope with this bus's extension attributes.

    Its attributes are texts of 1 to MAX_LENGTH characters, none of them a control character. What its data may be is
    checked when it is encoded or decoded. Further attributes are kept as they are (`event.model_extra`).

    Attributes:
        priority: 1 (most urgent) to 10.
        correlation_id: shared by everything that one first event caused.
        causation_id: the event that directly caused this one.
        targets: names of the only agents that may receive the event; empty means all.
        metadata: whatever belongs to the work as a whole (a user, a session), at most 4 KiB of JSON; what the event
            causes inherits it.
        hops: how many events lie between this one and the first of its correlation.
        sent: False when publish() has accepted the event but the broker is away: it is sent as soon as that is back.
        key: what the ledger knows it by: its id, and for another program's event one that follows from source and id.

    """

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    specversion: str = Field(default="1.0", pattern=r"^1\.0$")
    id: _Text
    type: str
    source: _Text
    time: AwareDatetime = Field(default_factory=utc_now, ge=_FIRST, le=_LAST)
    datacontenttype: _Text = "application/json"
    subject: _Text | None = None
    data: Any = None
    data_base64: NoBinary = None
    correlation_id: str = Field(default="", alias="correlationid", max_length=MAX_LENGTH)
    causation_id: _Text | None = Field(default=None, alias="causationid")
    schema_version: _Text = Field(default="1.0.0", alias="schemaversion")
    priority: int = Field(default=DEFAULT_PRIORITY, ge=1, le=10)
    targets: tuple[_Text, ...] = ()
    hops: int = Field(default=0, ge=0, lt=2**31)
    traceparent: _Text | None = None
    tracestate: str | None = Field(default=None, max_length=MAX_TRACESTATE)
    metadata: dict[str, Any] = Field(default_factory=dict)

    sent: ClassVar[bool] = True
    key: ClassVar[str] = ""
    #: Another program's event as it came.
    _received: ClassVar[bytes | None] = None

    @field_validator("type")
    @classmethod
    def _type_is_dotted_words(cls, value: str) -> str:
        return check_type(value)

    @field_validator("targets", mode="before")
    @classmethod
    def _targets_from_text(cls, value: Any) -> Any:
        # CloudEvents attributes are scalars: on the wire the names are joined by commas.
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("metadata", mode="before")
    @classmethod
    def _metadata_from_text(cls, value: Any, info: ValidationInfo) -> Any:
        return metadata_of(value, lenient=info.context is _READ)

    def model_post_init(self, context: Any) -> None:
        """Let a first event be the start of its own correlation; refuse control characters in texts."""
        if self.__pydantic_extra__ and context is not _READ:
            object.__setattr__(self, "__pydantic_extra__", checked(self.__pydantic_extra__))
        if not self.correlation_id:
            object.__setattr__(self, "correlation_id", self.id)
        object.__setattr__(self, "key", self.id)
        texts = f"{self.id}{self.source}{self.correlation_id}{self.subject}{self.causation_id}{self.schema_version}"
        if self.targets or self.traceparent or self.tracestate or not texts.isprintable():
            self._check_texts()

    def _check_texts(self) -> None:
        for name in _TEXTS:
            if character := control_in(getattr(self, name) or ""):
                raise ValueError(f"{_WIRE_NAMES.get(name, name)}: {character!a} is no character of a text; remove it")
        for target in self.targets:
            if "," in target or control_in(target):
                raise ValueError(f"targets: {target!a} cannot be the name of an agent")
        if (total := sum(map(len, self.targets)) + len(self.targets)) > MAX_TARGETS:
            raise ValueError(f"targets: {total:,} characters are too many; {MAX_TARGETS:,} are allowed")

    def evolve(self, **changes: Any) -> Self:
        """Return a validated copy with `changes`."""
        further = checked({name: value for name, value in changes.items() if name not in type(self).model_fields})
        metadata = metadata_of(changes.get("metadata", self.metadata))
        changed = {**self.model_dump(), **changes, **further, "metadata": metadata}
        return type(self).model_validate(changed, context=_READ)

    def marked(self, *, sent: bool) -> Self:
        """Return the event with a note whether the broker has it; what the event says stays as it is."""
        if self.sent is sent:
            return self
        copy = self.model_copy()
        object.__setattr__(copy, "sent", sent)
        return copy

    def _came_as(self, raw: str | bytes, key: str | None) -> Self:
        """Keep another program's event as it came; without a correlation of its own it is the start of one."""
        key = key or foreign_id(self.source, self.id)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "_received", raw.encode() if isinstance(raw, str) else bytes(raw))
        if not (self.correlation_id and "correlation_id" in self.model_fields_set):
            object.__setattr__(self, "correlation_id", key)
        return self

    def attributes(self) -> dict[str, Any]:
        """Return the CloudEvents JSON attributes, without those that are absent; of another program's event all."""
        if self._received:
            received: dict[str, Any] = orjson.loads(self._received)
            return received
        attributes = {
            "specversion": self.specversion,
            "id": self.id,
            "type": self.type,
            "source": self.source,
            # In UTC: encoders drop the seconds of an odd time zone.
            "time": self.time if self.time.tzinfo is UTC else self.time.astimezone(UTC),
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
            "metadata": metadata_text(self.metadata) if self.metadata else None,
            **(self.__pydantic_extra__ or {}),
        }
        present = {name: value for name, value in attributes.items() if value is not None}
        present["data"] = self.data
        return present

    def encode(self) -> bytes:
        """Return the event as CloudEvents JSON; raise InvalidEvent that names the place of what not everybody reads."""
        if self._received:
            return self._received
        try:
            body = orjson.dumps(self.attributes(), default=other_class, option=orjson.OPT_UTC_Z)
        except TypeError as exc:
            raise InvalidEvent(flaw(self.data) or f"data: {exc}; event data is JSON") from exc
        # JSON has no NaN: orjson writes null.
        if (b"null" in body or not _is_plain(body)) and (found := flaw(self.data)):
            raise InvalidEvent(found)
        return body

    def encoded(self, limit: int, bus: dict[str, Any] | None = None, seal: Seal | None = None) -> Encoded:
        """Return the event ready for the wire; raise InvalidEvent, or EventTooLarge above so many bytes."""
        body = self.encode()
        if len(body) > limit:
            place, size = largest(self.data)
            raise EventTooLarge(
                f"{place}: event {self.type!r} takes {len(body):,} bytes, {size:,} of them here, the limit is "
                f"{limit:,}; put large content into a field of the type Blob, or raise PIPELINE_MAX_EVENT_BYTES"
            )
        return Encoded(self, body, bus=bus, seal=seal)

    @classmethod
    def decode(cls, raw: str | bytes, key: str | None = "") -> Self:
        """Read one event from CloudEvents JSON; raise InvalidEvent that names the wrong field.

        Arguments:
            key: what the ledger knows it by; None for another program's event, which has yet to get it.

        """
        try:
            attributes = orjson.loads(raw)
            event = cls.model_validate(attributes, context=_READ)
        except orjson.JSONDecodeError as exc:
            raise InvalidEvent(f"event does not validate: it is no JSON that everybody can read: {exc}") from exc
        except ValidationError as exc:
            raise InvalidEvent(explain(exc, "event")) from exc
        body = raw if isinstance(raw, bytes) else raw.encode()
        # orjson makes a float of an integer beyond 64 bits, Python's own parser does not.
        if not _is_plain(body) and (found := flaw(attributes, "") or flaw(json.loads(body), "")):
            raise InvalidEvent(f"event does not validate: {found}")
        return event if key in ("", event.id) else event._came_as(raw, key)

    def __json__(self) -> dict[str, Any]:
        """Let Celery's serializer carry an event as a task argument."""
        plain: dict[str, Any] = orjson.loads(self.encode())
        return plain


_WIRE_NAMES = {name: field.alias for name, field in Event.model_fields.items() if field.alias}
_TEXTS = (
    "id", "source", "datacontenttype", "subject", "correlation_id", "causation_id", "schema_version", "traceparent",
    "tracestate",
)  # fmt: skip


class Encoded(NamedTuple):
    """An event with its encoded body, ready for the log and for the wire.

    Attributes:
        agent: the only agent whose queue gets the message; None for everybody whom the event is for.
        bus: what the worker has to know about this message, beside the event.
        delivery: the delivery that emitted the event.
        replay: the replay that emitted it.
        seal: what signs the message; without it the message is as any other program's.

    """

    event: Event
    body: bytes
    agent: str | None = None
    bus: dict[str, Any] | None = None
    delivery: str | None = None
    replay: str | None = None
    seal: Seal | None = None


def _is_plain(body: bytes) -> bool:
    """Say after a quick look, which every event has to pass, that nothing in encoded JSON needs a closer one."""
    if b"\\u0000" in body or _LONG in body.translate(_DIGITS):
        return False
    return body.count(b"{") + body.count(b"[") <= MAX_DEPTH or is_shallow(body)


class Content(NamedTuple):
    """What an event says: its type, the version of its schema, and JSON data."""

    type: str
    version: str
    data: Any


def new_event(
    what: Payload | str | Content,
    data: Any = None,
    *,
    source: str,
    cause: Event | None = None,
    id: str | None = None,
    priority: int | None = None,
    correlation_id: str | None = None,
    subject: str | None = None,
    targets: tuple[str, ...] = (),
    metadata: Mapping[str, Any] | None = None,
    version: str = Payload.schema_version,
    context: dict[str, Any] | None = None,
) -> Event:
    """Return a new event from a typed payload, or from an event type and JSON data, which is of the `version` given.

    Correlation, priority, metadata and trace context are inherited from `cause`; what is given explicitly wins.

    Arguments:
        context: what the payload's own serializers are handed, such as where blobs are kept.

    Raises InvalidEvent that names the wrong field.

    """
    event_type, version, data = content_of(what, data, context, version)
    attributes: dict[str, Any] = {"id": id or new_id(), "type": event_type, "source": source, "data": data}
    if cause is not None:
        attributes.update(correlation_id=cause.correlation_id, causation_id=cause.id, priority=cause.priority)
        attributes.update(hops=cause.hops + 1, traceparent=cause.traceparent, tracestate=cause.tracestate)
        attributes |= {} if Traced.current is None else Traced.current()
    if metadata is not None or (cause is not None and cause.metadata):
        attributes["metadata"] = {**(cause.metadata if cause is not None else {}), **named(metadata)}
    given = {"priority": priority, "correlation_id": correlation_id, "subject": subject}
    attributes.update({name: value for name, value in given.items() if value is not None})
    try:
        return Event(schemaversion=version, targets=targets, **attributes)
    except ValidationError as exc:
        raise InvalidEvent(explain(exc, "event")) from exc


def content_of(
    what: Payload | str | Content,
    data: Any = None,
    context: dict[str, Any] | None = None,
    version: str = Payload.schema_version,
) -> Content:
    """Return what an event says that the caller wants to publish."""
    if isinstance(what, Content):
        return what
    if isinstance(what, str):
        return Content(what, version, data)
    if not isinstance(what, Payload):
        raise InvalidEvent(
            f"payload: a {type(what).__name__} cannot be published; pass a Payload instance, or an event type and data"
        )
    if not what.event_type:
        raise InvalidEvent(f"payload: {type(what).__name__} has no event type; declare it with type='...'")
    if data is not None:
        raise InvalidEvent("data: a typed payload already is the data; pass one of the two")
    return Content(what.event_type, what.schema_version, dump(what, context))


def dump(payload: Payload, context: dict[str, Any] | None = None) -> Any:
    """Return a payload's data; raise InvalidEvent when an agent would not get what is sent."""
    way = way_of(type(payload))
    try:
        data = payload.model_dump(mode="json", by_alias=True, round_trip=True, context=context)
    except Exception as exc:  # pydantic's own, or whatever a user's serializer raises
        ours = exc.__cause__
        if isinstance(ours, PipelineError):  # it says what to do
            place = None if ours.about is None else place_of(ours.about, payload)
            raise ours if place is None else type(ours)(f"{payload.event_type}: {place}: {ours}") from None
        raise InvalidEvent(f"payload {type(payload).__name__} cannot be sent: {exc}") from exc
    if way is Way.BY_VALUE:
        check_arrival(payload, data)
    return data
