"""Bridges are declared, and what is wrong with a declaration is said at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import ConfigError, InvalidAgent, LedgerOff, Pipeline
from pipeline.bridges import Kafka, Nats, PostgresOutbox, RedisStream
from pipeline.cli.main import cli
from pipeline.core.errors import BridgeAway

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture
def app(tmp_path: Path) -> Pipeline:
    return Pipeline("shop", directory=tmp_path)


def test_what_sends_is_an_agent_with_the_options_of_one(app: Pipeline) -> None:
    app.bridge("wms", Nats(), out=["order.#"], ask="price.*", where="data.n > 1", max_concurrent=2)
    assert [agent.name for agent in app.agents] == ["wms", "wms-ask"]
    assert app.agents["wms"].patterns == ("order.#",)
    assert app.agents["wms"].max_concurrent == 2
    assert app.agents["wms"].scopes == ("bridge:wms",)
    assert app.agents["wms"].filter is not None


def test_what_comes_in_needs_no_agent(app: Pipeline) -> None:
    bridge = app.bridge("wms", Nats(), into="stock.#")
    assert list(app.agents) == []
    assert bridge.comes_in
    assert app.bridges == {"wms": bridge}


@pytest.mark.parametrize(
    ("system", "options", "said"),
    [
        (Nats(), {}, "say what goes over it"),
        (Nats(), {"out": "a..b"}, "out: 'a..b'"),
        (Nats(), {"into": "a.#.b"}, "comes last"),
        (Nats(stream="a b"), {"into": "a"}, "no name of a stream"),
        (Nats(prefix=">"), {"into": "a"}, "without wildcards"),
        (Nats(), {"out": "a", "format": "cloudevent"}, "did you mean 'cloudevents'"),
        (Nats(), {"out": "a", "scope": "x"}, "the bridge says that"),
        (RedisStream(), {"answer": "a"}, "has no answers"),
        (PostgresOutbox(), {"out": "a"}, "come in only"),
        (Kafka(), {"ask": "a"}, "has no answers"),
        (Kafka(), {"into": "a.#.b"}, "comes last"),
        (Kafka("kafka://u:s3cret@h:1"), {"out": "a"}, "'one:9092,two:9092'"),
        (Kafka(prefix="a b"), {"out": "a"}, "no subject or topic"),
        (Kafka(prefix="ä"), {"out": "a"}, "no name of a topic"),
        (Kafka(topics={"order.#": "wms-*"}), {"out": "order.#"}, "no name of a topic"),
        (Kafka(settings={"security.protocol": "PLAINTEXT"}), {"out": "a"}, "the bridge itself sets security.protocol"),
        (Kafka(settings={"sasl.mechanism": "PLAIN"}), {"out": "a"}, "the bridge itself sets sasl.mechanism"),
        (Kafka(dead="a/b"), {"out": "a"}, "no name of a topic"),
        (Kafka(topics={"a.#": "b.*"}), {"out": "a"}, "same wildcards"),
        (Kafka(user="u", password="p", mechanism="PLAIN"), {"out": "a"}, "sends the password as it is"),
        (Kafka(user="u", password="p", mechanism="SCRAM-SHA-25"), {"out": "a"}, "did you mean 'SCRAM-SHA-256'"),
        (Kafka(user="u"), {"out": "a"}, "belong together"),
        (Kafka(settings={"acks": 1}), {"out": "a"}, "the bridge itself sets acks"),
    ],
)
def test_what_is_wrong_is_said_when_it_is_declared(app: Pipeline, system: Any, options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app.bridge("wms", system, **options)


def test_names_and_options_are_those_of_agents(app: Pipeline) -> None:
    with pytest.raises(InvalidAgent):
        app.bridge("No Name", Nats(), out="a")
    with pytest.raises(TypeError, match="wher"):
        app.bridge("wms", Nats(), out="a", wher="x")
    app.bridge("books", Nats(), out="a")
    with pytest.raises(ConfigError, match="declared twice"):
        app.bridge("books", Nats(), out="b")


def test_answers_need_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerOff, match="answer="):
        Pipeline("shop", directory=tmp_path, ledger_url="").bridge("wms", Nats(), answer="lookup.*")


def test_passwords_are_not_shown() -> None:
    for one in (
        Nats("nats://u:s3cret@h:1"),
        RedisStream("redis://:s3cret@h"),
        PostgresOutbox("postgresql://u:s3cret@h/d"),
        Kafka("u:s3cret@h:1"),
    ):
        assert "s3cret" not in str(one)
    assert "s3cret" not in repr(Nats(password="s3cret", token="s3cret"))
    assert "s3cret" not in repr(
        Kafka("u:s3cret@h:1", password="s3cret", settings={"sasl.oauthbearer.config": "s3cret"})
    )


def test_the_reconnect_settings_have_the_defaults_that_are_documented() -> None:
    for one in (Nats(), RedisStream(), PostgresOutbox(), Kafka()):
        assert (one.reconnect_wait, one.max_reconnects, one.connect_timeout) == (2.0, 10, 2.0)


def test_declaring_a_bridge_imports_none_of_the_libraries(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline import Pipeline\n"
        "from pipeline.bridges import Kafka, Nats, PostgresOutbox, RedisStream\n"
        "app = Pipeline('shop')\n"
        "app.bridge('a', Nats(), out='a', into='b')\n"
        "app.bridge('b', RedisStream(), out='a', into='b')\n"
        "app.bridge('c', PostgresOutbox(), into='b')\n"
        "app.bridge('d', Kafka(), out='a', into='b')\n"
        "print([name for name in ('nats', 'redis', 'psycopg', 'confluent_kafka') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("system", "extra"),
    [(Nats(), "nats"), (RedisStream(), "redis"), (PostgresOutbox(), "postgres"), (Kafka(), "kafka")],
)
def test_a_missing_library_is_named_with_its_extra(system: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.bridges.bridge.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"\[{extra}\]"):
        asyncio.run(system.connect("g"))


@pytest.mark.parametrize(
    "system",
    [
        Nats("nats://127.0.0.1:1"),
        RedisStream("redis://127.0.0.1:1"),
        PostgresOutbox("postgresql://127.0.0.1:1/x"),
        Kafka("127.0.0.1:1"),
    ],
)
def test_a_system_that_is_away_is_said_to_be_away(system: Any) -> None:
    with pytest.raises(BridgeAway, match=r"127\.0\.0\.1:1"):
        asyncio.run(system.connect("g"))


def test_the_command_lists_bridges_and_says_what_it_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "bridging_shop.py").write_text(
        "from pipeline import Pipeline\nfrom pipeline.bridges import Kafka, Nats\n"
        f"app = Pipeline('shop', directory={str(tmp_path)!r})\n"
        "app.bridge('wms', Nats('nats://u:s3cret@h:1'), out='order.#')\n"
    )
    (tmp_path / "bridgeless_shop.py").write_text("from pipeline import Pipeline\napp = Pipeline('shop')\n")
    runner = CliRunner()
    listed = runner.invoke(cli, ["-A", "bridging_shop", "bridge", "list", "--json"])
    (one,) = json.loads(listed.stdout)
    assert (one["name"], one["system"], one["out"], one["into"]) == ("wms", "NATS", ["order.#"], [])
    assert "s3cret" not in listed.stdout
    assert "wms" in runner.invoke(cli, ["-A", "bridging_shop", "bridge", "list"]).stdout
    for arguments, said in (
        (("-A", "bridging_shop", "bridge", "run"), "nothing comes over these bridges"),
        (("-A", "bridging_shop", "bridge", "run", "wm"), "did you mean 'wms'"),
        (("-A", "bridgeless_shop", "bridge", "list"), "declares no bridge"),
    ):
        found = runner.invoke(cli, arguments)
        assert found.exit_code == 1
        assert said in found.stderr


def test_what_librdkafka_does_not_know_is_said(tmp_path: Path) -> None:
    for one, said in (
        (Kafka("127.0.0.1:1", settings={"fetch.min.byte": 1}), "fetch.min.byte"),
        (Kafka("127.0.0.1:1", tls_ca=tmp_path / "none.crt"), "none.crt"),
    ):
        with pytest.raises(ConfigError, match=said):
            asyncio.run(one.connect("g"))
