"""What is deleted from a store: what no event names, and nothing else, whoever publishes meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline import BlobMissing, ConfigError
from pipeline.contracts.blobs import blobs as blobs_module
from pipeline.contracts.blobs.blobs import DAY, NO_LEDGER, Blobs, store_of
from pipeline.contracts.blobs.directory import Directory
from pipeline.contracts.blobs.source import Given
from tests.blobs import blobs_in, directory_in, words

A, B = Given(b"a" * 1000), Given(b"b" * 1000)


class Clock:
    """A clock that stands until somebody moves it."""

    def __init__(self) -> None:
        self.at = DAY * 20_000

    def __call__(self) -> int:
        self.at += 1
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(blobs_module, "now", clock)
    return clock


def naming(*sources: Given) -> Callable[[set[str]], set[str]]:
    """Return what says that events name these."""
    return lambda ids: ids & {source.id for source in sources}


def read(blobs: Blobs, source: Given) -> bytes:
    with blobs.open(source.id) as file:
        return file.read(2000)


def test_what_no_event_names_goes_after_a_day_and_not_before(blobs: Blobs, clock: Clock) -> None:
    blobs.keep(A)
    blobs.keep(B)
    assert blobs.prune(naming(A)) == 0
    assert words(blobs.store)["kept"] == {A.id}
    assert read(blobs, B) == b"b" * 1000, "until then it can be read"
    clock.at += DAY - 100
    assert blobs.prune(naming(A)) == 0
    clock.at += 200
    assert blobs.prune(naming(A)) == 1
    assert words(blobs.store) == {"kept": {A.id}, "unreferenced": set(), "ledgers": {"l1"}}
    with pytest.raises(BlobMissing):
        read(blobs, B)


def test_what_is_named_again_within_the_day_stays(blobs: Blobs, clock: Clock) -> None:
    blobs.keep(A)
    blobs.prune(naming())
    clock.at += 2 * DAY
    assert blobs.prune(naming(A)) == 0
    assert words(blobs.store)["kept"] == {A.id}
    assert words(blobs.store)["unreferenced"] == set()


def test_publishing_it_again_puts_it_back_at_once(blobs: Blobs, clock: Clock) -> None:
    blobs.keep(A)
    blobs.prune(naming())
    blobs.keep(A)
    clock.at += 2 * DAY
    assert blobs.prune(naming()) == 1, "the older one, and the newer one has its own day"
    assert read(blobs, A) == b"a" * 1000
    clock.at += 2 * DAY
    blobs.prune(naming())
    with pytest.raises(BlobMissing):
        read(blobs, A)


def test_sending_it_on_puts_it_back_at_once(blobs: Blobs, clock: Clock) -> None:
    blobs.keep(A)
    blobs.prune(naming())
    blobs.renew(A.id)
    assert words(blobs.store)["kept"] == {A.id}
    assert words(blobs.store)["unreferenced"] == set()


def test_a_look_that_finds_a_name_too_late_does_not_count(blobs: Blobs, clock: Clock) -> None:
    """What is moved while another look goes on stays for a day from then."""
    blobs.keep(A)

    def meanwhile(ids: set[str]) -> set[str]:
        clock.at += 3 * DAY  # a look takes as long as it takes
        blobs.keep(B)
        return set()

    blobs.prune(meanwhile)
    assert words(blobs.store)["kept"] == {B.id}, "it came after the list was made"
    assert blobs.prune(naming()) == 0


def test_what_is_no_id_is_left_alone(blobs: Blobs, clock: Clock) -> None:
    blobs.keep(A)
    with open(__file__, "rb") as file:
        blobs.store.write("kept/README", file)
    blobs.prune(naming(A))
    assert words(blobs.store)["kept"] == {A.id, "README"}


def test_without_any_blobs_nothing_is_read_or_made(tmp_path: Path) -> None:
    blobs = blobs_in(directory_in(tmp_path))
    blobs.check_owner()
    assert blobs.prune(lambda ids: ids) == 0
    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize(("other", "said"), [("l2", "the ledger l2"), (NO_LEDGER, "publishers without a ledger")])
def test_a_store_that_others_use_too_is_not_pruned(blobs: Blobs, other: str, said: str) -> None:
    blobs.keep(A)
    blobs.check_owner()
    blobs_in(blobs.store, other).keep(B)
    with pytest.raises(ConfigError, match=f"events of {said} may refer to blobs .* or remove ledgers/{other}"):
        blobs.check_owner()
    blobs.store.remove(f"ledgers/{other}")
    blobs.check_owner()


def test_a_crash_between_any_two_steps_loses_nothing_that_is_named(
    blobs: Blobs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"left": 0}
    move, remove = blobs.store.move, blobs.store.remove

    def dying(do: Callable[..., None]) -> Callable[..., None]:
        def act(*names: str) -> None:
            steps["left"] -= 1
            if steps["left"] < 0:
                raise KeyboardInterrupt
            do(*names)

        return act

    monkeypatch.setattr(blobs.store, "move", dying(move))
    monkeypatch.setattr(blobs.store, "remove", dying(remove))
    steps["left"] = 99
    for source in (A, B):
        blobs.keep(source)
    blobs.prune(naming())
    for survived in range(4):
        clock.at += 2 * DAY
        steps["left"] = survived
        with contextlib.suppress(KeyboardInterrupt):
            blobs.prune(naming(A))
        assert read(blobs, A) == b"a" * 1000
    steps["left"] = 99
    blobs.prune(naming(A))
    assert words(blobs.store) == {"kept": {A.id}, "unreferenced": set(), "ledgers": {"l1"}}


def test_the_setting_says_which_store_it_is(tmp_path: Path) -> None:
    assert repr(store_of("", tmp_path / "blobs")) == f"Directory({str(tmp_path / 'blobs')!r})"
    assert repr(store_of("/var/blobs", tmp_path)) == "Directory('/var/blobs')"
    assert repr(store_of("s3://bucket/of/shop", tmp_path)) == "S3('bucket', 'of/shop')"
    assert repr(store_of("s3://bucket", tmp_path)) == "S3('bucket', '')"


# -- publishers and looks in any order


class Races(RuleBasedStateMachine):
    """Publishers, agents that send on, and two looks at once, step by step in any order, over many days.

    A publisher that has seen or put content appends its event within a day; events go when somebody prunes them.
    """

    CONTENTS = {source.id: source for source in (A, B)}

    @initialize()
    def start(self) -> None:
        import tempfile

        self.clock = Clock()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(blobs_module, "now", self.clock)
        self.directory = tempfile.TemporaryDirectory()
        self.blobs = blobs_in(Directory(Path(self.directory.name) / "blobs"))
        self.publishing: list[tuple[str, int]] = []
        self.events: list[str] = []
        self.looks: list[tuple[str, ...]] = []

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            self.directory.cleanup()

    @rule(which=st.sampled_from(sorted(CONTENTS)), again=st.booleans())
    def keep(self, which: str, again: bool) -> None:
        try:
            if again:
                self.blobs.renew(which)
            else:
                self.blobs.keep(self.CONTENTS[which])
        except BlobMissing:
            return
        self.publishing.append((which, self.clock()))

    @precondition(lambda self: self.publishing)
    @rule()
    def append(self) -> None:
        self.events.append(self.publishing.pop(0)[0])

    @precondition(lambda self: self.events)
    @rule()
    def prune_event(self) -> None:
        self.events.pop(0)

    @rule(hours=st.integers(1, 23))
    def wait(self, hours: int) -> None:
        later = self.clock.at + hours * DAY // 24
        while self.publishing and self.publishing[0][1] + DAY - 1000 <= later:  # nobody takes longer
            self.append()
        self.clock.at = later

    @rule(meanwhile=st.lists(st.tuples(st.sampled_from(sorted(CONTENTS)), st.booleans()), max_size=3))
    def look(self, meanwhile: list[tuple[str, bool]]) -> None:
        """Prune, while others publish between the look at the events and what follows from it."""

        def still_named(ids: set[str]) -> set[str]:
            found = ids & set(self.events)
            for which, again in meanwhile:
                self.keep(which, again)
            return found

        self.blobs.prune(still_named)

    @rule(waits=st.integers(0, 3), other=st.booleans())
    def slow_look(self, waits: int, other: bool) -> None:
        """Prune, and let hours pass between the look at the events and what follows, with another look in them."""

        def still_named(ids: set[str]) -> set[str]:
            found = ids & set(self.events)
            for _ in range(waits):
                self.wait(20)
            if other:
                self.blobs.prune(lambda ids: ids & set(self.events))
            return found

        self.blobs.prune(still_named)

    @invariant()
    def whatever_is_named_can_be_read(self) -> None:
        for id in {*getattr(self, "events", ()), *(which for which, _ in getattr(self, "publishing", ()))}:
            assert read(self.blobs, self.CONTENTS[id])


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
