"""What is written into logs and onto terminals: visible, bounded, without passwords, whoever has written it."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.cli.output import escaped
from pipeline.core.errors import LONGEST_LINE, LONGEST_TRACEBACK, shown, visible, without_passwords
from pipeline.core.observe import Log

TEXTS = st.text(st.characters(exclude_categories=()))
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
ESCAPES = "\x1b[2J\x1b]0;title\x07\r\n\x9b31m\0\u202etxt.exe"


def test_each_logger_of_the_package_shows_what_others_have_written() -> None:
    root = Path(pipeline.__file__).parent
    made = {
        str(path.relative_to(root)): line
        for path in root.rglob("*.py")
        if "examples" not in path.parts
        for line in path.read_text().splitlines()
        if re.search(r"get(_task)?_?logger\(", line, re.IGNORECASE) and not line.startswith(("import", "from"))
    }
    assert made
    own = {name for name, line in made.items() if not line.startswith("logger = Log(")}
    assert own <= {"cli/group.py", "ledger/database/migrate.py"}, "which only set levels"


@given(TEXTS)
def test_whatever_is_logged_is_one_bounded_line(text: str) -> None:
    assert len(shown(text)) <= LONGEST_LINE
    assert not OBEYED.search(shown(text))


def test_a_line_holds_no_escape_no_password_and_no_more_than_it_should(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(logging.getLogger("pipeline.test"))
    error = ValueError(ESCAPES + " amqp://ada:s3cret@host/ " + "x" * 50_000)
    with caplog.at_level("INFO", "pipeline.test"):
        log.info("%s took %d of %s: %s", ESCAPES, 7, {"key": ESCAPES}, error)
    (record,) = caplog.records
    assert not OBEYED.search(record.getMessage())
    assert "s3cret" not in record.getMessage()
    assert r"\x1b[2J" in record.getMessage()
    assert " took 7 of " in record.getMessage()
    assert len(record.getMessage()) < 3 * LONGEST_LINE
    assert record.pathname == __file__


def test_a_traceback_in_the_log_is_shown_in_the_same_way(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(logging.getLogger("pipeline.test"))
    try:
        raise ValueError(ESCAPES + "x" * 50_000)
    except ValueError:
        log.exception("it failed")
    (record,) = caplog.records
    assert not record.exc_info
    assert len(record.getMessage()) <= LONGEST_TRACEBACK + 20
    assert not OBEYED.search(record.getMessage().replace("\n", ""))
    assert record.levelname == "ERROR"


@pytest.mark.parametrize(
    "name", ["password", "sslpassword", "passwd", "pwd", "access_token", "client_secret", "apikey"]
)
def test_a_password_in_the_query_of_a_url_is_masked(name: str) -> None:
    text = f"cannot open postgresql://host/shop?user=ada&{name}=s3cret%21&sslmode=require: no route"
    masked = without_passwords(text)
    assert "s3cret" not in masked
    assert masked.endswith("&sslmode=require: no route")


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_json_for_a_terminal_is_the_same_json(data: object) -> None:
    text = escaped(orjson.dumps(data))
    assert orjson.loads(text) == data
    assert not OBEYED.search(text)


def test_an_ordinary_text_stays_as_it_is() -> None:
    assert visible("café ✓ 日本 👩‍👧") == "café ✓ 日本 👩‍👧"
