"""Simulations: the order is a seed's, faults happen, and what always has to hold is looked at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pipeline import Pipeline, Retry
from pipeline.core.errors import ConfigError
from pipeline.core.times import SECOND, now
from pipeline.ledger.database.leases import clock
from pipeline.testing import Simulation, SimulationFailed
from tests.simulated import OrderPlaced, one_of_each, orders, paying, shop


@pytest.mark.parametrize("seed", range(5))
def test_whatever_goes_wrong_nothing_is_lost_and_nothing_happens_twice(tmp_path: Path, seed: int) -> None:
    simulation = Simulation(shop(tmp_path), orders, seed=seed, invariants=[one_of_each])
    said = simulation.run(events=12)
    assert said.outcomes["succeeded"] > 12 * 5


def test_without_faults_none_happens(tmp_path: Path) -> None:
    said = Simulation(shop(tmp_path), orders).run(events=3, faults={})
    assert not said.faults
    assert not said.outcomes["running"]


def test_with_many_faults_each_kind_happens(tmp_path: Path) -> None:
    shares = {"crash": 0.1, "duplicate": 0.3, "reorder": 0.3, "broker_away": 0.1, "slow": 0.2, "skew": 0.2}
    said = Simulation(shop(tmp_path), orders, seed=3).run(events=10, faults=shares)
    assert set(said.faults) == set(shares)


def test_a_seed_is_one_run(tmp_path: Path) -> None:
    runs = [Simulation(shop(tmp_path), orders, seed=seed).run(events=6) for seed in (1, 1, 2)]
    assert runs[0].steps == runs[1].steps
    assert runs[0].steps != runs[2].steps


def test_a_seed_is_one_run_also_where_the_broker_is_away_for_a_moment(tmp_path: Path) -> None:
    shares = {"broker_away": 0.3, "skew": 0.1}
    runs = [Simulation(shop(tmp_path, [paying]), orders, seed=7).run(events=4, faults=shares) for _ in range(2)]
    assert runs[0].faults["broker_away"] > 3
    assert runs[0].steps == runs[1].steps


def test_a_wrong_clock_is_the_workers_and_not_the_databases(tmp_path: Path) -> None:
    app, seen = Pipeline("clocks", directory=tmp_path), list[tuple[float, float]]()

    @app.agent(on=OrderPlaced)
    def look(order: OrderPlaced) -> None:
        with app.bus.ledger.database.reading() as connection:
            there = connection.execute(select(clock())).scalar_one()
        seen.append((now() / SECOND, int(there) / SECOND))

    Simulation(app, orders, seed=3).run(events=20, faults={"skew": 0.5})
    off = [here - there for here, there in seen]
    assert min(off) < -60
    assert max(off) > 60
    assert max(there for _, there in seen) - min(there for _, there in seen) < 1


def test_a_fault_in_an_application_is_found_with_its_seed_and_few_events(tmp_path: Path) -> None:
    app, sent = Pipeline("mail", directory=tmp_path), list[int]()

    @app.agent(on=OrderPlaced, retry=Retry(max=8))
    def mail(order: OrderPlaced) -> None:
        sent.append(order.number)  # an effect outside of the ledger, and no step around it

    def once(bus: Any) -> None:
        mailed = sent.copy()
        sent.clear()
        assert len(mailed) == len(set(mailed)), "somebody has got two mails"

    with pytest.raises(SimulationFailed) as failed:
        Simulation(app, orders, seed=5, invariants=[once]).run(events=40, faults={"crash": 0.1, "duplicate": 0.1})
    said = str(failed.value)
    assert "somebody has got two mails" in said
    assert re.search(r"seed 5, which fails with [1-3] event\(s\) and these faults: crash no. ", said), said
    assert said.count(" no. ") <= 3
    assert "the worker dies: " in said


def test_what_is_no_fault_is_refused(tmp_path: Path) -> None:
    simulation = Simulation(shop(tmp_path), orders)
    with pytest.raises(ConfigError, match="duplicate"):
        simulation.run(faults={"duplicat": 0.1})
    with pytest.raises(ConfigError, match="no share from 0 to 1"):
        simulation.run(faults={"crash": 2})
