"""The lock: what is compared with what, which findings a mode lets through, and files that are no locks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import create_model

from pipeline import Payload
from pipeline.contracts.lock import Lock, Report, check, encoded, lock_of, read_lock
from pipeline.contracts.registry import MODES, Mode, Types
from pipeline.core.errors import ConfigError

TYPE = "order.placed"


def order(version: str, **fields: Any) -> type[Payload]:
    """Return a class of one version: a field is its type, or its type and its default."""

    class Placed(Payload, type=TYPE, version=version): ...

    made = {name: one if isinstance(one, tuple) else (one, ...) for name, one in fields.items()}
    cls: type[Payload] = create_model(f"Placed{version}", __base__=Placed, **made)
    return cls


def types(*classes: type[Payload], mode: Mode | None = None, steps: tuple[str, ...] = ()) -> Types:
    known = Types()
    known.add(*classes, mode=mode)
    for step in steps:
        known.upcaster(TYPE, *step.split(), lambda data: data)
    return known


def locked(*classes: type[Payload], mode: Mode | None = None) -> Lock:
    """Return the lock after each class in turn was the only one of the app."""
    lock: Lock = {}
    for cls in classes:
        lock = lock_of(types(cls, mode=mode), lock)
    return lock


def findings(report: Report) -> list[tuple[str, str, str, str]]:
    return [(one.before, one.after, one.finding.rule, one.finding.breaks) for one in report.broken]


FIRST = order("1.0.0", order_id=str)


def test_what_is_as_it_was_locked_is_good() -> None:
    report = check(types(FIRST), locked(FIRST))
    assert (report.is_good, report.may_be_locked) == (True, True)
    assert report.as_data() == {"ok": True, "findings": [], "unraised": [], "unlocked": []}


def test_a_field_with_a_default_and_a_higher_version_needs_a_new_lock_and_nothing_else() -> None:
    report = check(types(order("1.1.0", order_id=str, note=(str, ""))), locked(FIRST))
    assert report.broken == report.unraised == ()
    assert report.unlocked == ("order.placed 1.1.0 is not in the lock",)
    assert (report.is_good, report.may_be_locked) == (False, True)


def test_a_change_that_breaks_new_readers_is_found_with_rule_path_and_reader() -> None:
    report = check(types(order("1.1.0", order_id=str, total=float)), locked(FIRST))
    (finding,) = report.as_data()["findings"]
    assert finding == {
        "type": TYPE, "from": "1.0.0", "to": "1.1.0", "rule": "field-required", "path": "total",
        "before": "absent", "after": "required", "breaks": "new reader",
    }  # fmt: skip
    assert not report.may_be_locked


def test_a_class_that_changes_under_its_version_has_to_get_a_higher_one() -> None:
    report = check(types(order("1.0.0", order_id=str, note=(str, ""))), locked(FIRST))
    assert report.unraised == ("order.placed 1.0.0 has changed since it was locked: give the class a higher version",)
    assert not report.may_be_locked
    assert check(types(order("1.0.0", order_id=int)), locked(FIRST)).broken, "and breaks readers as any other change"


def test_titles_and_descriptions_are_no_change() -> None:
    class Placed(Payload, type=TYPE, version="1.0.0"):
        """With words."""

        order_id: str

    assert check(types(Placed), locked(FIRST)).is_good


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_says_whose_break_is_a_finding(mode: Mode) -> None:
    narrower = order("1.1.0", order_id=str, total=float)  # new readers need what old events lack
    wider = order("1.1.0", order_id=(str, ""))  # old readers need what new events may lack
    found = {
        name: bool(check(types(cls, mode=mode), locked(FIRST, mode=mode)).broken)
        for name, cls in (("narrower", narrower), ("wider", wider))
    }
    assert found == {"narrower": mode in ("backward", "full"), "wider": mode in ("forward", "full")}


def test_what_is_not_checked_may_change_under_its_version() -> None:
    report = check(types(order("1.0.0", order_id=int), mode="none"), locked(FIRST, mode="none"))
    assert report.may_be_locked
    assert report.unlocked == ("order.placed 1.0.0 has changed since it was locked",)


def test_a_mode_that_changes_is_locked_anew() -> None:
    report = check(types(FIRST, mode="full"), locked(FIRST))
    assert report.unlocked == ("order.placed is locked as backward, and declared as full",)


def test_every_version_that_was_ever_locked_is_compared() -> None:
    without = order("1.1.0", order_id=str)
    with_note = order("1.0.0", order_id=str, note=(int, 0))
    again = order("1.2.0", order_id=str, note=(str, ""))
    report = check(types(again), locked(with_note, without))
    assert findings(report) == [("1.0.0", "1.2.0", "type", "new reader")]


def test_a_newer_major_version_needs_a_chain_of_upcasters_from_each_older_one() -> None:
    second = order("2.0.0", total=float)
    missing = check(types(second), locked(FIRST))
    assert findings(missing) == [("1.0.0", "2.0.0", "upcaster-missing", "new reader")]
    assert '@app.upcaster("order.placed", "1.0.0", "2.0.0")' in missing.broken[0].finding.after
    assert check(types(second, steps=("1.0.0 2.0.0",)), locked(FIRST)).may_be_locked
    third, steps = order("3.0.0", cents=int), ("2.0.0 3.0.0",)
    assert findings(check(types(third, steps=steps), locked(FIRST, second)))[0][:3] == (
        "1.0.0", "3.0.0", "upcaster-missing",
    )  # fmt: skip


def test_an_older_major_version_that_still_has_a_class_needs_none() -> None:
    assert check(types(FIRST, order("2.0.0", total=float)), locked(FIRST)).may_be_locked


@pytest.mark.parametrize("mode", ["forward", "full"])
def test_a_newer_major_version_breaks_old_readers(mode: Mode) -> None:
    report = check(types(order("2.0.0", total=float), mode=mode, steps=("1.0.0 2.0.0",)), locked(FIRST, mode=mode))
    assert findings(report) == [("1.0.0", "2.0.0", "newer-major", "old reader")]


def test_a_version_that_goes_back_and_a_type_that_goes_are_found() -> None:
    lower = check(types(FIRST), locked(FIRST, order("1.1.0", order_id=str)))
    assert ("1.1.0", "1.0.0", "version-lowered", "new reader") in findings(lower)
    gone = check(Types(), locked(FIRST))
    assert findings(gone) == [("1.0.0", "", "type-removed", "new reader")]
    assert gone.unlocked == ("order.placed is in the lock, and no class has it any more",)
    assert check(Types(), locked(FIRST, mode="none")).broken == ()


def test_two_classes_of_one_version_have_to_be_alike() -> None:
    known = types(FIRST)

    class Other(Payload, type=TYPE, version="1.0.0"):
        order_id: str

    known.add(Other)
    assert check(known, locked(FIRST)).is_good

    class Different(Payload, type=TYPE, version="1.0.0"):
        total: float

    known.add(Different)
    with pytest.raises(ConfigError, match=r"order.placed 1.0.0 is two classes that differ: .*Other and .*Different"):
        lock_of(known, {})


# -- the file


def test_a_lock_is_read_as_it_was_written_and_written_in_one_order(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    lock = locked(order("1.10.0", order_id=str), order("1.9.0", order_id=str), mode="full")
    path.write_bytes(encoded(lock))
    assert read_lock(path) == lock
    assert list(orjson.loads(path.read_bytes())["types"][TYPE]["versions"]) == ["1.9.0", "1.10.0"]
    assert path.read_bytes().endswith(b"}\n")


def entry(**changes: Any) -> bytes:
    return orjson.dumps({"format": 1, "types": {TYPE: {"mode": "full", "versions": {}, **changes}}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file; `pipeline schemas lock` writes it"),
        (b"<<<<<<< HEAD", "is no lock of schemas .*take it from git again"),
        (b"[]", "is no lock of schemas"),
        (b'{"format": 2, "types": {}}', "its format is 2, and this version reads 1"),
        (entry(mode="fully"), "order.placed: mode 'fully' is none of backward, forward"),
        (entry(versions={"one": {}}), "order.placed: 'one' is not a semantic version"),
        (entry(versions=None), "is no lock of schemas"),
    ],
)
def test_what_is_no_lock_is_refused_with_what_to_do(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "lock.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        read_lock(path)
    assert str(path) in str(caught.value)


def test_a_directory_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> Callable[[], bytes]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ConfigError, match="Permission denied"):
        read_lock(tmp_path)
