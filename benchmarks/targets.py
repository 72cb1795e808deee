"""The targets, each compared with what was measured; what was not measured has no line."""

from __future__ import annotations

from collections.abc import Iterator

from . import ledger_tables
from .publish import Published
from .results import Results, Target
from .samples import Ratio, median, ratio


def judged(results: Results) -> list[Target]:
    """Return a line for every target that this run can judge."""
    judges = (
        _unconfirmed,
        _confirmed,
        _logged,
        _execution,
        _published_fast,
        _consumed_as_fast,
        _quick_and_idle,
        _imports,
    )
    found = [target for judge in judges for target in judge(results)]
    return [*found, *ledger_tables.judged(results.ledger)]


def _at_least(number: int, what: str, wanted: float, measured: Ratio) -> Target:
    return Target(number, what, f">= {wanted:.2f}", str(measured), measured.median >= wanted)


def _published(results: Results, broker: str, subscribers: int, contender: str) -> Published | None:
    for one in results.publish:
        if (one.broker, one.subscribers) == (broker, subscribers) and one.contender.startswith(contender):
            return one
    return None


def _subscribers(results: Results) -> list[int]:
    return sorted({one.subscribers for one in results.publish})


def _called(one: Published | None, other: Published | None) -> Ratio | None:
    return ratio(one.called, other.called) if one and other else None


def _unconfirmed(results: Results) -> Iterator[Target]:
    bus = {n: _published_exactly(results, n, "pipeline publish") for n in _subscribers(results)}
    if 1 in bus and 20 in bus and (found := _called(bus[20], bus[1])):
        yield _at_least(1, "rabbitmq, no confirms: publish to 20 agents / to 1", 0.85, found)
    for n, published in bus.items():
        if found := _called(published, _published_exactly(results, n, "kombu Producer.publish")):
            yield _at_least(1, f"rabbitmq, no confirms, {n} agents: publish / kombu", 0.5, found)


def _logged(results: Results) -> Iterator[Target]:
    for broker in ("embedded", "rabbitmq"):
        for n in _subscribers(results):
            for call, wanted in (("publish, ", 0.4), ("publish_many, ", 0.6)):
                one = _published(results, broker, n, f"pipeline with SQLite ledger: {call}")
                if found := _called(one, _published(results, broker, n, "kombu Producer.publish")):
                    what = f"{broker}, {n} agents: {call}SQLite ledger / kombu, no confirms"
                    yield _at_least(2, what, wanted, found)


def _published_exactly(results: Results, subscribers: int, contender: str) -> Published | None:
    found = _published(results, "rabbitmq", subscribers, contender)
    return found if found and found.contender == contender else None


def _confirmed(results: Results) -> Iterator[Target]:
    for one, other, wanted in (
        ("pipeline publish_many", "aio-pika", 1.2),
        ("pipeline apublish", "aio-pika", 1.0),
        ("pipeline publish, confirmed", "kombu Producer.publish, ", 0.9),
    ):
        for n in _subscribers(results):
            measured = [_published(results, "rabbitmq", n, name) for name in (one, other)]
            if found := _called(*measured):
                names = f"{one.partition(',')[0]} / {other.partition(' ')[0].rstrip(',')}"
                yield _at_least(2, f"rabbitmq, confirmed, {n} agents: {names}", wanted, found)


def _execution(results: Results) -> Iterator[Target]:
    for one in results.execute:
        what = f"{one.broker}, {one.pool}, {one.subscribers}: agents / bare Celery tasks"
        yield _at_least(3, what, 0.95, one.ratio)


def _published_fast(results: Results) -> Iterator[Target]:
    for call in ("pipeline publish, ", "pipeline publish_many"):
        if one := _published(results, "embedded", 1, call):
            rate = median(one.called)
            what = f"embedded, 1 agent: {one.contender.removeprefix('pipeline ')}"
            yield Target(4, what, ">= 8,000/s", f"{rate:,.0f}/s", rate >= 8000)


def _consumed_as_fast(results: Results) -> Iterator[Target]:
    runs = {(one.broker, one.pool, one.subscribers): one.agents for one in results.execute}
    for broker, pool, n in runs:
        if broker == "rabbitmq" and ("embedded", pool, n) in runs:
            rates = [[run.per_second for run in runs[name, pool, n]] for name in ("embedded", "rabbitmq")]
            yield _at_least(4, f"{pool}, {n} agents: embedded / rabbitmq", 1.0, ratio(*rates))


def _quick_and_idle(results: Results) -> Iterator[Target]:
    for one in results.latency:
        if (one.broker, one.kind) == ("embedded", "agents"):
            yield Target(4, "embedded, publish to handler, p50", "<= 15 ms", f"{one.p50_ms:.1f} ms", one.p50_ms <= 15)
            idle = one.idle_percent
            yield Target(4, "embedded, idle worker", "< 2 % of a core", f"{idle:.2f} %", idle < 2)


def _imports(results: Results) -> Iterator[Target]:
    if results.imports:
        more = results.imports.more
        yield Target(5, "import pipeline - import celery", "< 0.40 s", f"{more:.3f} s", more < 0.4)
