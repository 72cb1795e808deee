"""`pipeline demo`, as a user runs it: a real worker, real messages, and nothing left running."""

import email
import json
import re
import signal
import subprocess
import sys
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from pipeline import Event
from tests.demos import COMMAND, PATIENT, demo, workers_in
from tests.http import Server
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def read(path: Path) -> EmailMessage:
    message = email.message_from_bytes(path.read_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    return message


def test_the_demo_breaks_things_and_counts_that_nothing_was_lost_or_done_twice(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    found = demo(environment=environment)
    assert (found.returncode, found.stderr) == (0, "")
    told = found.stdout
    directory = next(tmp_path.glob("pipeline-demo-*"))

    # It says what the product is for, what goes wrong in which order, and what came of it.
    assert told.startswith("pipeline is an event bus for Python, on Celery.")
    order = [told.index(word) for word in ("KILLED:", "RETRY:", "DEAD LETTER:", "REQUEUED:", "DONE:", "LOST:")]
    assert order == sorted(order)
    assert "LOST: nothing." in told
    assert "DONE TWICE: nothing." in told
    assert "in a browser: the same once more with --serve" in told

    # Each answer begins with prose about the question.
    assert "A context manager is an object that defines the" in told
    assert "may be wrapped by one or more" in told
    assert "csv: CSV parsing and writing." in told

    # The mail server has one message for each question, and they are well formed.
    messages = [read(path) for path in (directory / "mail").iterdir()]
    assert sorted(message["Subject"] for message in messages) == [
        "Your briefing: How do I read a CSV file?",
        "Your briefing: How do context managers work?",
        "Your briefing: What is a decorator?",
    ]
    for message in messages:
        assert message.defects == []
        assert message["To"] == "ada@example.org"
        assert {part.get_content_type() for part in message.walk()} == {
            "multipart/alternative", "text/plain", "text/html",
        }  # fmt: skip

    # The audit log has every event, and every cause of one; what a dead worker had in hand may be there twice.
    lines = (directory / "briefing" / "audit.jsonl").read_bytes().splitlines()
    events = {event.id: event for event in map(Event.decode, lines)}
    assert len(events) == 3 * 6 + 2
    assert all(event.causation_id in events for event in events.values() if event.type != "user.query")


def test_the_commands_that_the_demo_ends_with_work_as_they_are_printed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    # As somebody has it who uses the bus already: neither may be asked.
    environment |= {"PIPELINE_LEDGER_URL": "postgresql://nobody@127.0.0.1:1/none", "PIPELINE_NAMESPACE": "other"}
    elsewhere = tmp_path / "a directory with spaces"
    elsewhere.mkdir()
    (elsewhere / "pipeline.toml").write_text('broker_url = "amqp://127.0.0.1:1//"\n')
    directory = elsewhere / "it's here"
    found = subprocess.run(
        [*COMMAND, "What is a lambda?", "--directory", directory.name, *PATIENT],
        capture_output=True, text=True, env=environment, timeout=180, check=False, cwd=elsewhere,
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")
    printed = [line.strip() for line in found.stdout.splitlines() if "pipeline.toml" in line]
    assert len(printed) == 3
    for command, shows in zip(
        printed,
        ("-> email: succeeded", "delivery.requeued", "1 events would be sent to email"),
        strict=True,
    ):
        ran = subprocess.run(
            command, shell=True, capture_output=True, text=True, env=environment, timeout=60, check=False, cwd=elsewhere
        )
        assert (ran.returncode, ran.stderr) == (0, ""), command
        assert shows in ran.stdout


def test_the_demo_tells_its_story_as_json(tmp_path: Path, environment: dict[str, str]) -> None:
    command = ("What is a lambda?", "--directory", "here", "--json")
    told = json.loads(demo(*command, environment=environment).stdout)
    story = told["questions"][0]
    assert story["answer"].startswith("Lambdas: Lambda expressions")
    assert {event["correlationid"] for event in story["events"]} == {story["correlation_id"]}
    assert Path(story["message"]).is_relative_to(tmp_path / "here")
    # The one message went through everything that goes wrong.
    assert told["retried"] == told["dead"] == Path(story["message"]).stem
    assert told["deliveries"] == {"succeeded": told["deliveries"]["succeeded"]}
    assert told["attempts"] > told["deliveries"]["succeeded"] - 1
    assert (set(told["lost"].values()), set(told["twice"].values())) == ({0}, {0})
    assert not Path(f"/proc/{told['killed']}").exists()
    assert len(told["try"]) == 3

    # A second run in the same directory keeps to its own events.
    again = json.loads(demo(*command, environment=environment).stdout)
    assert again["questions"][0]["correlation_id"] != story["correlation_id"]
    assert len(list((tmp_path / "here" / "mail").glob("*.eml"))) == 2


def test_a_demo_ends_with_the_page_of_what_happened_when_that_is_wanted(environment: dict[str, str]) -> None:
    # As somebody has it who uses the bus already: it may not be asked.
    environment |= {"PIPELINE_LEDGER_URL": "postgresql://nobody@127.0.0.1:1/none"}
    with subprocess.Popen(
        [*COMMAND, "What is a lambda?", "--serve", *PATIENT],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as running:  # fmt: skip
        try:
            assert running.stderr is not None
            served = re.search(r"serving http://127\.0\.0\.1:(\d+)", running.stderr.readline())
            assert served is not None
            server = Server(int(served[1]))
            asked = server.get("/events?type=user.query").data["events"][0]
            page = server.get(f"/ui/events/{asked['id']}").body.decode()
            assert all(agent in page for agent in ("research", "library", "reference", "email"))
            running.send_signal(signal.SIGINT)
            told, said = running.communicate(timeout=30)
        finally:
            running.kill()
    assert (running.returncode, said) == (130, "")
    assert "LOST: nothing." in told
    assert "in a browser" in told


def test_a_worker_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'celery' in sys.orig_argv: raise SystemExit('there is no coffee')\n"
    )
    environment["PYTHONPATH"] = str(tmp_path)
    found = subprocess.run([*COMMAND, "Why?"], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("pipeline: the worker stopped with exit code 1. The end of ")
    assert "there is no coffee" in found.stderr


def test_a_demo_that_takes_too_long_says_what_is_missing(tmp_path: Path, environment: dict[str, str]) -> None:
    # Somebody else holds the lock under which the library's index is built.
    holder = (
        "import fcntl, sys; from pathlib import Path; from pipeline.examples.briefing import agents as briefing\n"
        "index = briefing.index('library'); path = index.path.with_suffix('.lock')\n"
        "path.parent.mkdir(parents=True); lock = path.open('w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    state = {**environment, "BRIEFING_STATE": str(tmp_path / "here" / "briefing")}
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=state
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        command = [
            *COMMAND,
            "What is a lambda?",
            "--directory",
            "here",
            "--timeout",
            "40",
        ]  # for the workers' starts too
        found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        process.communicate("")
    assert found.returncode == 1
    assert "out of time, waiting for the first message: " in found.stderr
    assert "agent 'library' has user.query" in found.stderr
    assert "worker-2.log" in found.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_stops_its_worker(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    many = ["How do exceptions work?"] * 500  # it is not at its end before it is interrupted
    with subprocess.Popen(
        [*COMMAND, *many], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    ) as running:  # fmt: skip
        wait_for(lambda: workers_in(tmp_path), "the worker")
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
    assert running.returncode == code
    assert said == ""


def test_a_bad_question_is_named(environment: dict[str, str]) -> None:
    found = subprocess.run([*COMMAND, ""], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert found.returncode in (1, 2)
    assert "question" in found.stderr.lower()
    assert "Traceback" not in found.stderr
