"""Settings: arguments > environment > file > defaults."""

import os
from pathlib import Path

import pytest

from pipeline import ConfigError
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
        ConfigError, match=r"environment: unknown setting 'PIPELINE_BROKER_ULR'; did you mean 'broker_url'"
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
        ("broker_url", "rabbit://localhost", "broker_url.*unknown broker scheme 'rabbit'; known: .*amqp"),
        ("broker_url", "amqq://localhost", "unknown broker scheme 'amqq'; did you mean 'amqp'"),
        ("broker_url", "localhost", "unknown broker scheme 'localhost'"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.load(**{name: value})


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"publish_timeout.*; .*max_event_bytes"):
        Settings.load(publish_timeout=-1, max_event_bytes=1)


def test_a_list_in_the_environment_that_is_not_json_says_how_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_AGENTS", "shop.agents")
    with pytest.raises(ConfigError, match=r"agents.*write a list as JSON, such as '\[\"shop\.agents\"\]'"):
        Settings.load()
