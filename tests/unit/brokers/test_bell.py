"""The bell that wakes a worker's event loop is never overheard, and stays in the process that has hung it up."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.asynchronous import Hub

from pipeline.brokers.bell import Bell


class RungWhileEmptied:
    """The end that is listened to, while another thread rings right before it is emptied."""

    def __init__(self, end: socket.socket, bell: Bell) -> None:
        self._end, self._bell = end, bell

    def recv(self, size: int) -> bytes:
        self._bell.ring()
        return self._end.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


def test_it_is_answered_once_for_all_who_have_rung_and_again_when_the_answer_rings(hub: Hub) -> None:
    answered: list[int] = []

    def answer() -> None:
        answered.append(len(answered))
        if len(answered) < 3:
            bell.ring()

    bell = Bell(hub, answer)
    bell.ring()
    bell.ring()
    for _ in range(3):
        hub.run_once()
    assert answered == [0, 1, 2]
    bell.close()
    assert not hub.readers


def test_who_rings_while_it_is_emptied_is_heard(hub: Hub) -> None:
    bell = Bell(hub, lambda: None)
    heard = bell._heard
    bell._heard = RungWhileEmptied(heard, bell)
    bell._on_ring()  # whatever was to be taken has been looked for now
    bell.ring()
    assert heard.recv(4096)
    bell.close()


def test_a_child_that_takes_it_down_leaves_the_loop_of_its_parent_as_it_is(hub: Hub) -> None:
    answered: list[int] = []
    bell = Bell(hub, lambda: answered.append(1))
    child = os.fork()
    if not child:
        bell.close()
        os._exit(0)
    os.waitpid(child, 0)
    bell.ring()
    hub.run_once()
    assert answered == [1]
    bell.close()
