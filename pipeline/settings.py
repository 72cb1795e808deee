"""Settings: arguments win over PIPELINE_* environment variables, those over the TOML file, that over defaults."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .brokers.urls import check_broker, check_results, file_url, scheme_of
from .core.errors import ConfigError, nearest, to_install, without_passwords
from .core.topics import check_type

PREFIX = "PIPELINE_"
#: Where settings are looked for, in the working directory, unless PIPELINE_CONFIG names a file.
FILES = ("pipeline.toml", "config/pipeline.toml")
URLS = ("broker_url", "result_backend", "ledger_url", "blob_store")
#: Settings in which secrets are written; no error shows what was written there.
SECRET = ("webhook_sources",)
LEDGERS = ("sqlite", "postgresql", "postgres")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w./-]*)?", re.ASCII)


class WebhookSource(BaseModel):
    """A service that calls this app with its webhooks.

    Attributes:
        style: how it signs its calls.
        secrets: what it signs them with; several while one takes another one's place.
        types: what its calls are published as, each by the service's own name; default the source's name, a dot and
            that name.

    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    style: Literal["standard", "github", "stripe"]
    secrets: tuple[Annotated[SecretStr, Field(min_length=1)], ...] = Field(min_length=1)
    types: dict[str, str] = Field(default_factory=dict)

    @field_validator("types")
    @classmethod
    def _types_are_types(cls, value: dict[str, str]) -> dict[str, str]:
        for event_type in value.values():
            check_type(event_type)
        return value


class Settings(BaseSettings):
    """Everything that can be set, each with its default and unit (docs/settings.md lists them).

    Attributes:
        broker_url: sqlite:///FILE (embedded), amqp://USER:PASSWORD@HOST//, redis://HOST/0.
        result_backend: where chords keep their members' results; empty means a file beside the embedded broker.
        directory: where embedded state lives.
        namespace: a word that the names of all exchanges and queues begin with, so that several apps share one broker.
        agents: modules that declare agents; workers import them, publishers never do.
        confirm: wait until the broker has taken each event.
        publish_timeout: seconds after which publish() gives up.
        broker_timeout: seconds after which a worker gives up a connection on which the broker is silent.
        max_event_bytes: the largest encoded event, in bytes, both when publishing and when receiving.
        ledger_url: the durable log: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; unset means a file in
            `directory`, empty means none.
        ledger_timeout: seconds to wait for a ledger that is locked or away.
        suspect_after: seconds of silence after which an agent is suspected to have failed.
        heartbeat_every: seconds between two agent.heartbeat events, for agents that listen to them.
        reconcile_after: seconds after which a delivery that is in no queue is sent again.
        record_filtered: of which events that an agent's filter keeps back that is recorded: all, sampled or off.
        filtered_sample: the share of those (0 to 1) that is recorded when they are sampled, by the events' ids.
        async_concurrency: how many handlers of each async agent without a `max_concurrent` a worker runs at once.
        max_hops: how many events may lie between an event and the first of its correlation, before it is set aside.
        redis_visibility_timeout: seconds after which Redis gives a dead worker's events to another.
        blob_store: where large content is kept: a directory, or s3://BUCKET/PREFIX; empty means `blobs` in `directory`.
        blob_threshold: bytes up to which a blob's content travels in the event, never more than half of
            `max_event_bytes`.
        max_blob_bytes: the largest content of a blob, in bytes, both when publishing and when receiving.
        webhook_networks: networks such as 10.0.0.0/8 in which webhooks may be, beside the public ones.
        schemas_url: where the schemas of event types are served, such as https://bus.example.com/schemas.
        http_tokens: who may use the HTTP front, each as `pipeline token` prints it: NAME:SCOPES:DIGEST.
        http_rate: requests a second that each caller of the HTTP front may publish or change something with; 0 for any.
        flower_url: where Flower is, such as https://flower.example.com: the page leads there; empty for nowhere.
        webhook_sources: services whose webhooks the HTTP front takes, by the name that their path ends in.
        traces: whether OpenTelemetry hears of spans, once an SDK is configured.
        trace_links: whether the span of a delivery is a child of its publisher's, or linked with it.
        metrics_port: where each worker tells Prometheus what it has counted; 0 for nowhere.
        metrics_host: the address that this port is opened on.
        metrics_labels: how many agents, and how many event types, are told apart there; the others are `other`.
        log_format: how workers and beat write their logs: as text, or each line as JSON.

    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )

    broker_url: str = ""
    result_backend: str = ""
    directory: Path = Path(".pipeline")
    namespace: str = Field(default="", pattern=r"^([A-Za-z0-9_-]{1,60})?$")
    agents: tuple[str, ...] = ()
    confirm: bool = True
    publish_timeout: float = Field(default=5.0, gt=0)
    broker_timeout: float = Field(default=30.0, ge=10)  # heartbeats are whole seconds, and may be late
    max_event_bytes: int = Field(default=256 * 1024, ge=1024)
    ledger_url: str | None = None
    ledger_timeout: float = Field(default=5.0, gt=0)
    suspect_after: float = Field(default=90.0, ge=15)  # three times what a worker has to say that it lives
    heartbeat_every: float = Field(default=30.0, ge=1)
    reconcile_after: float = Field(default=60.0, gt=0)
    record_filtered: Literal["all", "sampled", "off"] = "all"
    filtered_sample: float = Field(default=0.01, ge=0, le=1)
    async_concurrency: int = Field(default=100, ge=1)
    max_hops: int = Field(default=32, ge=1)
    redis_visibility_timeout: int = Field(default=3600, ge=1)
    blob_store: str = ""
    blob_threshold: int = Field(default=128 * 1024, ge=0)
    max_blob_bytes: int = Field(default=64 * 1024 * 1024, ge=1, le=5 * 1024**3)  # S3 takes no more at once

    webhook_networks: tuple[str, ...] = ()
    schemas_url: str = Field(default="", pattern=r"^(https?://[!-~]{1,200}[!-.0-~])?$")
    http_tokens: tuple[str, ...] = ()
    http_rate: float = Field(default=0.0, ge=0, le=1_000_000)
    flower_url: str = Field(default="", pattern=r"^(https?://[!-~]{1,200})?$")
    traces: bool = True
    trace_links: Literal["child", "link"] = "child"
    metrics_port: int = Field(default=0, ge=0, le=65_535)
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    metrics_labels: int = Field(default=200, ge=1)
    log_format: Literal["text", "json"] = "text"
    webhook_sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")], WebhookSource] = Field(
        default_factory=dict
    )

    @field_validator("webhook_networks")
    @classmethod
    def _networks_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ip_network(network)
            except ValueError as exc:
                raise ValueError(f"{exc}; write networks such as '10.0.0.0/8' or '::1/128'") from None
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker_is_known(cls, value: str) -> str:
        if value:
            _with_errors_of_settings(check_broker, value)
        return value

    @field_validator("result_backend")
    @classmethod
    def _results_are_known(cls, value: str) -> str:
        _with_errors_of_settings(check_results, value)
        return value

    @field_validator("ledger_url")
    @classmethod
    def _ledger_is_known(cls, value: str | None) -> str | None:
        scheme = scheme_of(value or "").partition("+")[0]
        if value and scheme not in LEDGERS:
            raise ValueError(f"unknown ledger scheme {scheme!r}; {nearest(scheme, LEDGERS)}")
        return value

    @field_validator("blob_store")
    @classmethod
    def _blob_store_is_known(cls, value: str) -> str:
        scheme, is_url, rest = value.partition("://")
        if is_url and scheme != "s3":
            raise ValueError(f"unknown scheme {scheme!r}; write a directory, or s3://BUCKET/PREFIX")
        if is_url and not _BUCKET.fullmatch(rest):
            raise ValueError(
                "write s3://BUCKET or s3://BUCKET/PREFIX; boto3 finds credentials and the server's address in "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
            )
        if is_url and find_spec("boto3") is None:
            raise ValueError(f"s3:// needs the package boto3; {to_install('s3')}")
        return value

    @field_validator("directory")
    @classmethod
    def _home_is_known(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()  # a handler may change the working directory
        except (RuntimeError, OSError) as exc:
            raise ValueError(f"{exc}; write the whole path") from None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show the settings without passwords."""
        for name, value in super().__repr_args__():
            yield name, without_passwords(value) if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment; load() passes the file's values below both."""
        return init_settings, env_settings

    @classmethod
    def load(cls, **arguments: Any) -> Self:
        """Read all sources; raise ConfigError that names the wrong key and the nearest known one."""
        fields = set(cls.model_fields)
        path = config_file()
        from_file = _read(path) if path else {}
        _refuse_unknown(from_file, fields, str(path))
        _refuse_unknown(_misspelt_in_environment(fields), fields, "the environment", PREFIX)
        _refuse_unknown(arguments, fields, "the arguments")
        values = {k: v for k, v in from_file.items() if PREFIX + k.upper() not in os.environ}
        try:
            return cls(**{**values, **arguments})
        except ValidationError as exc:
            raise ConfigError("; ".join(_explain(error) for error in exc.errors(include_url=False))) from None
        except ValueError as exc:  # pydantic-settings: an environment variable that is not JSON
            raise ConfigError(f"{exc}: {exc.__cause__}; write a list as JSON, such as '[\"shop.agents\"]'") from None

    @property
    def effective_broker_url(self) -> str:
        """The broker to use: the one that is set, else the embedded one in `directory`."""
        return self.broker_url or file_url((self.directory / "broker.db").absolute())

    @property
    def effective_result_backend(self) -> str:
        """The result backend to use: the one that is set, else a file in `directory`."""
        return self.result_backend or file_url((self.directory / "results.db").absolute())

    @property
    def filtered_share(self) -> float:
        """The share of the events that filters keep back (0 to 1) of which that is recorded."""
        return {"all": 1.0, "sampled": self.filtered_sample, "off": 0.0}[self.record_filtered]

    @property
    def has_ledger(self) -> bool:
        """Whether `ledger_url` names a ledger, or leaves the default."""
        return self.ledger_url is None or bool(self.ledger_url)

    @property
    def effective_ledger_url(self) -> str:
        """The ledger to use: the one that is set, else a file in `directory`; empty for none.

        The directory of a file is made: whoever asks is about to open it, perhaps with an engine of his own.
        """
        if not self.has_ledger:
            return ""
        from .ledger.database import address  # heavy, and not needed without a ledger

        url = self.ledger_url or address.file_url((self.directory / "ledger.db").absolute())
        address.make_place(url)
        return url


def _with_errors_of_settings(check: Callable[[str], None], value: str) -> None:
    """Let a check fail as pydantic expects it, so that all wrong settings are named at once."""
    try:
        check(value)
    except ConfigError as exc:
        raise ValueError(str(exc)) from None


def config_file() -> Path | None:
    """Return the settings file in use, or None; raise ConfigError when PIPELINE_CONFIG names none."""
    named = os.environ.get(PREFIX + "CONFIG")
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"PIPELINE_CONFIG={named}: there is no such file")
        return Path(named)
    return next((Path(name) for name in FILES if Path(name).is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from exc


def _misspelt_in_environment(fields: set[str]) -> dict[str, str]:
    """Return the PIPELINE_* variables that are nearly settings; other programs have theirs under the same prefix."""
    names = {name.removeprefix(PREFIX).lower(): "" for name in os.environ if name.startswith(PREFIX)}
    return {
        name: "" for name in names if name not in {*fields, "config"} and get_close_matches(name, fields, cutoff=0.7)
    }


def _refuse_unknown(values: dict[str, Any], fields: set[str], where: str, prefix: str = "") -> None:
    for key in values:
        if key not in fields:
            spelled = prefix + key.upper() if prefix else key
            known = [prefix + field.upper() for field in fields] if prefix else fields
            raise ConfigError(f"{where}: unknown setting {spelled!r}; {nearest(spelled, known)}")


def _explain(error: Any) -> str:
    field = ".".join(map(str, error["loc"]))
    said = error["msg"].removeprefix("Value error, ")
    # What cannot be read as a URL may be a password anywhere.
    return f"{field}: {said}" if error["loc"][0] in (*URLS, *SECRET) else f"{field} = {error['input']!r}: {said}"
