"""`pipeline tail`, and the commands behind Celery's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from pipeline import Pipeline
from tests.harness import Broker, run
from tests.servers import wait_for

BIN = Path(sys.executable).parent
PIPELINE, CELERY = str(BIN / "pipeline"), str(BIN / "celery")


def test_the_log_is_followed_by_type_and_content_until_ctrl_c(tmp_path: Path, no_settings: None) -> None:
    broker = Broker("embedded", f"sqlite:///{tmp_path / 'state' / 'broker.db'}", tmp_path)
    bus = Pipeline("publisher", broker_url=broker.url, directory=tmp_path / "state")
    bus.publish("tick.before", {"n": 1_000_000})
    log = broker.directory / "tail.txt"
    command = [PIPELINE, "tail", "--type", "tick.*", "--where", "n > 1", "--json"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=broker.environment(), stdout=output, stderr=output)
    try:
        sent = 0

        def came() -> list[int]:
            nonlocal sent
            sent += 1  # it begins at a time that it does not say
            bus.publish_many([("tick.one", {"n": 1}), ("tock.one", {"n": 2}), ("tick.two", {"n": 2 + sent})])
            said = log.read_text()  # of which the last line may be half written
            return [json.loads(line)["data"]["n"] for line in said[: said.rfind("\n") + 1].splitlines()]

        wait_for(lambda: len(came()) >= 2, "events to come", interval=0.5)
        numbers = came()
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert 1_000_000 not in numbers
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        bus.close()


def test_what_cannot_be_followed_is_said(tmp_path: Path) -> None:
    broker = Broker("embedded", f"sqlite:///{tmp_path / 'broker.db'}", tmp_path)
    wrong = run([PIPELINE, "tail", "--where", "a b c"], broker)
    off = run([PIPELINE, "tail"], broker, PIPELINE_LEDGER_URL="")
    assert (wrong.returncode, off.returncode) == (1, 1)
    assert "ledger" in off.stderr


def test_every_command_is_one_of_celerys_too(tmp_path: Path) -> None:
    broker = Broker("embedded", f"sqlite:///{tmp_path / 'broker.db'}", tmp_path)
    sent = run([CELERY, "-A", "durable_app", "pipeline", "publish", "order.placed", "--data", "{}"], broker)
    assert sent.returncode == 0, sent.stderr
    agents = run([CELERY, "-A", "durable_app", "pipeline", "agents", "--json"], broker)
    assert "bystander" in {one["name"] for one in json.loads(agents.stdout)}
    wrong = run([CELERY, "-A", "durable_app", "pipeline", "trace", "nothing"], broker)
    assert (wrong.returncode, "no event 'nothing'" in wrong.stderr) == (1, True)
    listed = run([CELERY, "-A", "durable_app", "pipeline"], broker)
    assert "dead " in listed.stdout
    assert "pipeline" in run([CELERY, "--help"], broker).stdout
