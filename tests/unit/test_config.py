"""Settings: arguments > environment > file > defaults."""

import os
import traceback
from pathlib import Path

import pytest
import sqlalchemy
from kombu import Connection
from sqlalchemy import create_engine, make_url, text

from pipeline import ConfigError
from pipeline.brokers import kinds
from pipeline.brokers.urls import parse_url
from pipeline.ledger.database.address import parse
from pipeline.settings import Settings, config_file


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an environment without settings."""
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(place: Path, text: str, name: str = "pipeline.toml") -> Path:
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# -- precedence


def test_without_any_source_the_defaults_hold(place: Path) -> None:
    found = Settings.load()
    assert (found.publish_timeout, found.max_event_bytes, found.agents) == (5.0, 256 * 1024, ())
    assert found.effective_broker_url == f"sqlite:///{place}/.pipeline/broker.db"
    assert found.effective_result_backend == f"sqlite:///{place}/.pipeline/results.db"


def test_arguments_win_over_the_environment_over_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, "publish_timeout = 1\nmax_event_bytes = 2000\nredis_visibility_timeout = 7\n")
    monkeypatch.setenv("PIPELINE_PUBLISH_TIMEOUT", "2")
    monkeypatch.setenv("PIPELINE_MAX_EVENT_BYTES", "3000")
    found = Settings.load(publish_timeout=3)
    assert (found.publish_timeout, found.max_event_bytes, found.redis_visibility_timeout) == (3, 3000, 7)


def test_a_list_in_the_environment_is_json_and_in_the_file_toml(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, 'agents = ["from.file"]')
    assert Settings.load().agents == ("from.file",)
    monkeypatch.setenv("PIPELINE_AGENTS", '["shop.agents", "mail.agents"]')
    assert Settings.load().agents == ("shop.agents", "mail.agents")


def test_a_broker_that_is_set_is_the_one_in_use() -> None:
    found = Settings.load(broker_url="redis://localhost/0", result_backend="redis://localhost/1")
    assert (found.effective_broker_url, found.effective_result_backend) == (
        "redis://localhost/0",
        "redis://localhost/1",
    )


def test_the_embedded_files_lie_in_the_directory(place: Path) -> None:
    assert Settings.load(directory=place / "x").effective_broker_url == f"sqlite:///{place}/x/broker.db"


ODD = [
    "feature%2Flogin",
    "C# projects",
    "why?",
    "50%25 off",
    "a;b",
    "a+b",
    "a&b=c",
    "ü",
    "x:y@z",
    "?synchronous=full",
    "a b",
]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("is_relative", [True, False])
def test_embedded_files_lie_in_the_directory_whatever_it_is_called(place: Path, name: str, is_relative: bool) -> None:
    if "?" in name and sqlalchemy.__version__.startswith("2.0"):
        pytest.skip("SQLAlchemy 2.0 has no way to write it")
    kinds.register()
    found = Settings.load(directory=Path(name) if is_relative else place / name)
    assert parse_url(found.effective_broker_url) == (place / name / "broker.db", {})
    assert parse_url(found.effective_result_backend) == (place / name / "results.db", {})
    assert Connection(found.effective_broker_url).hostname == found.effective_broker_url, "Kombu leaves it whole"
    assert make_url(found.effective_ledger_url).database == str(place / name / "ledger.db")
    address, options = parse(found.effective_ledger_url)
    assert (address.database, options) == (str(place / name / "ledger.db"), {})


def test_a_tilde_is_the_home_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "ada"))
    assert Settings.load(directory="~/state").directory == place / "ada" / "state"
    monkeypatch.setenv("PIPELINE_DIRECTORY", "~/elsewhere")
    assert Settings.load().effective_broker_url == f"sqlite:///{place}/ada/elsewhere/broker.db"
    with pytest.raises(ConfigError, match=r"directory = '~nobody-at-all/x': .*; write the whole path"):
        Settings.load(directory="~nobody-at-all/x")


@pytest.mark.parametrize("url", [None, "sqlite:///data/of/shop/ledger.db"])
def test_who_asks_for_the_ledgers_address_can_open_it(place: Path, url: str | None) -> None:
    found = Settings.load(ledger_url=url)
    assert list(place.iterdir()) == [], "reading settings makes nothing"
    engine = create_engine(found.effective_ledger_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (n INTEGER)"))
    engine.dispose()


def test_without_a_ledger_nothing_is_made(place: Path) -> None:
    found = Settings.load(ledger_url="")
    assert (found.effective_ledger_url, found.has_ledger) == ("", False)
    assert list(place.iterdir()) == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().publish_timeout = 1


# -- the file


def test_a_file_in_the_config_folder_is_found_but_one_beside_wins(place: Path) -> None:
    write(place, "publish_timeout = 1", "config/pipeline.toml")
    assert Settings.load().publish_timeout == 1
    write(place, "publish_timeout = 2")
    assert Settings.load().publish_timeout == 2


def test_the_environment_may_name_another_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, "publish_timeout = 1")
    other = write(place, "publish_timeout = 9", "other.toml")
    monkeypatch.setenv("PIPELINE_CONFIG", str(other))
    assert config_file() == other
    assert Settings.load().publish_timeout == 9


def test_a_named_file_that_is_missing_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CONFIG", str(place / "nowhere.toml"))
    with pytest.raises(ConfigError, match=r"PIPELINE_CONFIG=.*nowhere\.toml: there is no such file"):
        Settings.load()


@pytest.mark.parametrize("content", [b"publish_timeout = = 1", b"\xff\xfe", b"publish_timeout"])
def test_a_file_that_is_no_toml_is_named_with_the_reason(place: Path, content: bytes) -> None:
    (place / "pipeline.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"pipeline\.toml cannot be read: "):
        Settings.load()


# -- what is wrong


def test_an_unknown_setting_in_the_file_names_the_nearest(place: Path) -> None:
    write(place, 'brokr_url = "redis://localhost"')
    with pytest.raises(ConfigError, match=r"pipeline\.toml: unknown setting 'brokr_url'; did you mean 'broker_url'\?"):
        Settings.load()


def test_an_unknown_setting_in_the_environment_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_BROKER_ULR", "redis://localhost")
    with pytest.raises(
        ConfigError, match=r"environment: unknown setting 'PIPELINE_BROKER_ULR'; did you mean 'PIPELINE_BROKER_URL'"
    ):
        Settings.load()


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"arguments: unknown setting 'publish_timout'; did you mean 'publish_timeout'"
    ):
        Settings.load(publish_timout=1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("publish_timeout", 0, "publish_timeout = 0: .*greater than 0"),
        ("publish_timeout", "soon", "publish_timeout = 'soon': .*number"),
        ("max_event_bytes", 10, "max_event_bytes = 10: .*1024"),
        ("redis_visibility_timeout", 0, "redis_visibility_timeout"),
        ("record_filtered", "some", "record_filtered = 'some': .*'all', 'sampled' or 'off'"),
        ("filtered_sample", 1.5, "filtered_sample = 1.5: .*less than or equal to 1"),
        ("broker_url", "rabbit://localhost", "broker_url.*unknown broker scheme 'rabbit'; known: .*amqp"),
        ("broker_url", "amqq://localhost", "unknown broker scheme 'amqq'; did you mean 'amqp'"),
        ("broker_url", "localhost", "unknown broker scheme 'localhost'"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.load(**{name: value})


@pytest.mark.parametrize(("value", "share"), [("all", 1.0), ("sampled", 0.2), ("off", 0.0)])
def test_what_is_recorded_of_filtered_events_is_a_share(value: str, share: float) -> None:
    assert Settings.load().filtered_share == 1.0
    assert Settings.load(record_filtered=value, filtered_sample=0.2).filtered_share == share


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"publish_timeout.*; .*max_event_bytes"):
        Settings.load(publish_timeout=-1, max_event_bytes=1)


def test_a_list_in_the_environment_that_is_not_json_says_how_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_AGENTS", "shop.agents")
    with pytest.raises(ConfigError, match=r"agents.*write a list as JSON, such as '\[\"shop\.agents\"\]'"):
        Settings.load()


# -- webhooks that are taken


def test_services_are_a_table_in_the_file_and_json_in_the_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        place,
        """
        [webhook_sources.github]
        style = "github"
        secrets = ["new", "old"]
        types = {"pull_request.opened" = "review.wanted"}
        """,
    )
    found = Settings.load().webhook_sources["github"]
    assert (found.style, [one.get_secret_value() for one in found.secrets]) == ("github", ["new", "old"])
    assert found.types == {"pull_request.opened": "review.wanted"}
    monkeypatch.setenv("PIPELINE_WEBHOOK_SOURCES", '{"stripe": {"style": "stripe", "secrets": ["whsec_1"]}}')
    assert list(Settings.load().webhook_sources) == ["stripe"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"shop": {"style": "gitub", "secrets": ["zq"]}}, r"shop\.style: .*'standard', 'github' or 'stripe'"),
        ({"shop": {"style": "github"}}, r"shop\.secrets: Field required"),
        ({"shop": {"style": "github", "secrets": []}}, r"shop\.secrets: .*at least 1"),
        ({"shop": {"style": "github", "secrets": [""]}}, r"shop\.secrets\.0: .*at least 1"),
        ({"shop": {"style": "github", "secrets": "zq"}}, r"shop\.secrets: .*tuple"),
        ({"shop": {"style": "github", "secret": "zq", "secrets": ["zq"]}}, r"shop\.secret: Extra inputs"),
        ({"shop": {"style": "github", "secrets": ["zq"], "types": {"a": "b c"}}}, r"shop\.types: .*'b c' is not"),
        ({"a/b": {"style": "github", "secrets": ["zq"]}}, r"a/b\.\[key\]: .*pattern"),
        ({"shop": "zq"}, r"shop: Input should be"),
    ],
)  # fmt: skip
def test_a_service_that_is_written_wrongly_is_named_and_no_secret_is_shown(sources: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^webhook_sources\.{message}") as caught:
        Settings.load(webhook_sources=sources)
    assert "zq" not in "".join(traceback.format_exception(caught.value, limit=0))


# -- URLs and passwords


@pytest.mark.parametrize(
    "url",
    [
        "amqp://",
        "amqp://shop:s3@cr:et@host:5672//",
        "amqp://shop:a%23b%3Fc@host/vhost",
        "amqp://one;amqp://two",
        "amqp://one:5672;two:5672",
        "pyamqp://me:pw@one//;pyamqp://me:pw@two//",
        "amqp://host//?heartbeat=10",
        "redis://:pw@[::1]:6379/0",
        "rediss://:pw@host:6379/0?ssl_cert_reqs=CERT_REQUIRED",
        "sqlite:////tmp/a%23b.db?synchronous=full",
    ],
)
def test_a_url_that_can_be_read_is_taken_as_it_is(url: str) -> None:
    found = Settings.load(broker_url=url, result_backend=url)
    assert (found.broker_url, found.result_backend) == (url, url)


@pytest.mark.parametrize(
    "url",
    [
        "rpc://",
        "redis://host/0?socket_timeout=5",
        "cache+memcached://10.0.0.1:11211;10.0.0.2:11211/",
        "db+postgresql://me:p#w@host/x",
        "file:///tmp/C# x",
        "disabled",
        "shop.results:Backend",
    ],
)
def test_celerys_other_result_backends_are_left_to_celery(url: str) -> None:
    assert Settings.load(result_backend=url).result_backend == url


BROKEN = [
    "amqp://shop:zq#xv@host//",
    "redis://:zq?xv@host/0",
    "redis://:123?xv@host/0",
    "amqp://shop:12/xv@host//",
    "amqp://shop:zq/xv@host//",
    "amqp://shop:zq[xv@host//",
    "amqp://shop:zq;xv@host//",
    "amqp://shop:zq\u2100xv@host//",
    "amqp://shop:zq@host:port//",
    "amqp://shop:zq@host:99999//",
    "redis://:zq",
]


@pytest.mark.parametrize("setting", ["broker_url", "result_backend"])
@pytest.mark.parametrize("url", BROKEN)
def test_a_password_that_is_not_escaped_is_not_shown_and_the_way_out_is(setting: str, url: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{setting}: what follows .*:// cannot be read; write .* as %23") as caught:
        Settings.load(**{setting: url})
    said = "".join(traceback.format_exception(caught.value, limit=0))
    assert not any(piece in said for piece in ("zq", "xv", "123", "99999"))


@pytest.mark.parametrize(
    ("setting", "url", "message"),
    [
        ("broker_url", "shop:zq@host", "unknown broker scheme ''"),
        ("broker_url", "amqp:/shop:zq@host", "unknown broker scheme ''"),
        ("broker_url", "redis://host/0?password=zq", r"what follows \? has an option that Kombu does not know"),
        ("broker_url", "sqlite://me:zq@host/x", r"'sqlite://me:\*\*@host/x' names no file"),
        ("result_backend", "shop:zq@host", "it has no scheme"),
        ("result_backend", "db+postgresql://me:zq/x", "no address of a database"),
        ("ledger_url", "shop:zq@host", "unknown ledger scheme ''"),
        ("ledger_url", "mysql://me:zq@host/x", "unknown ledger scheme 'mysql'"),
    ],
)
def test_what_is_no_url_of_ours_shows_no_password_either(setting: str, url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{setting}: .*{message}") as caught:
        Settings.load(**{setting: url})
    assert "zq" not in "".join(traceback.format_exception(caught.value, limit=0))


@pytest.mark.parametrize("url", ["sqlite:////tmp/C# x/b.db", "sqlite:////tmp/a;b.db", "sqlite:////tmp/why?/b.db"])
def test_a_path_in_a_url_has_to_be_escaped(url: str) -> None:
    for setting in ("broker_url", "result_backend"):
        with pytest.raises(ConfigError, match=rf"{setting}: .*in a path write .* as %"):
            Settings.load(**{setting: url})


def test_settings_that_are_printed_show_no_password() -> None:
    found = Settings.load(
        broker_url="amqp://me:zq@host//", ledger_url="postgresql://host/x?user=me&password=zq", result_backend="rpc://",
        webhook_sources={"shop": {"style": "github", "secrets": ["zq"]}},
    )  # fmt: skip
    shop = found.webhook_sources["shop"]
    assert "zq" not in f"{found} {found!r} {shop!r} {shop.model_dump()} {shop.model_dump_json()}"
    assert "amqp://me:**@host//" in repr(found)
