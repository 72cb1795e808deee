"""A Kafka broker for the tests: the mock cluster that librdkafka brings, in a process of its own.

It speaks Kafka's protocol over TCP, and keeps its records and places in memory. It is not Apache's broker: it has no
disk, no replicas, no permissions, no limit of a message's size, no TLS and no passwords. So a kill of it is played:
its connections are cut and its port is closed, and what it has is there when it is started again.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
from glob import glob
from pathlib import Path
from typing import Any

from tests.servers import Server, ServerMissingError

#: The numbers of the protocol's requests to produce, and to take part in a group.
PRODUCE, JOIN = 0, 11
#: Those of its errors that say that a topic is not there, that a message is too large, and that permissions forbid it.
UNKNOWN, TOO_LARGE, FORBIDDEN, GROUP_FORBIDDEN = 3, 10, 29, 30


class Kafka(Server):
    """A cluster of one broker, in a process that does what it is told on its standard input."""

    name = "kafka"

    @property
    def url(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.kafkaserver"]

    def start(self) -> Server:
        if self.process is not None:
            self.tell("up")
            return self
        library()
        with (self.directory / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self.port = int(self._answer())
        return self

    def is_ready(self) -> bool:
        return self._listens()

    def tell(self, what: str, *arguments: Any) -> None:
        """Have it do something, and return when that is done."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, *arguments]).encode() + b"\n")
        self.process.stdin.flush()
        assert self._answer() == "0"

    def _answer(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        found = self.process.stdout.readline().decode().strip()
        assert found, (self.directory / "output.log").read_text()
        return found

    def create(self, topic: str, partitions: int = 4) -> None:
        """Make a topic."""
        self.tell("create", topic, partitions)

    def refuse(self, request: int, error: int, times: int = 1) -> None:
        """Answer the next requests of a kind with an error."""
        self.tell("refuse", request, error, times)

    def spoil(self, topic: str, error: int) -> None:
        """Answer all that is asked of a topic with an error."""
        self.tell("spoil", topic, error)

    def advertise(self, port: int, host: str = "127.0.0.1") -> None:
        """Tell clients to come to another address."""
        self.tell("advertise", host, port)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Cut all connections and refuse new ones; what it has is there when it is started again."""
        self.tell("down")

    def stop(self) -> None:
        if self.process is not None:
            super().kill()
            for one in (self.process.stdin, self.process.stdout):
                assert one is not None
                one.close()
        super().stop()


def library() -> ctypes.CDLL:
    """Return the librdkafka that confluent-kafka stands on."""
    try:
        import confluent_kafka
    except ImportError:
        raise ServerMissingError("confluent-kafka is not installed, whose mock cluster is the broker") from None
    beside = Path(confluent_kafka.__file__).parent
    places = (f"{beside}.libs/librdkafka-*.so*", f"{beside}/.dylibs/librdkafka*.dylib")
    found = next((path for place in places for path in glob(place)), None)
    if found is None:
        raise ServerMissingError(f"confluent-kafka in {beside} brings no librdkafka, whose mock cluster is the broker")
    return ctypes.CDLL(found)


class Mock:
    """The mock cluster, in this process. Source: src/rdkafka_mock.h of librdkafka."""

    def __init__(self) -> None:
        self._library = library()
        new, cluster = self._library.rd_kafka_new, self._library.rd_kafka_mock_cluster_new
        new.restype = cluster.restype = ctypes.c_void_p
        error = ctypes.create_string_buffer(512)
        client = new(0, None, error, len(error))
        assert client, error.value
        self._cluster = ctypes.c_void_p(cluster(ctypes.c_void_p(client), 1))
        self._do("group_initial_rebalance_delay_ms", ctypes.c_int32(0))
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        self.address: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def _do(self, what: str, *arguments: Any) -> int:
        return int(getattr(self._library, f"rd_kafka_mock_{what}")(self._cluster, *arguments))

    def obey(self, what: str, *arguments: Any) -> int:
        """Do what Kafka.tell() says; return librdkafka's error."""
        match what, *arguments:
            case "create", topic, partitions:
                return self._do("topic_create", topic.encode(), partitions, 1)
            case "refuse", request, error, times:
                self._do("push_request_errors", ctypes.c_int16(request), ctypes.c_size_t(times), *[error] * times)
                return 0
            case "spoil", topic, error:
                self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), error)
                return 0
            case "advertise", host, port:
                return self._do("broker_set_host_port", ctypes.c_int32(1), host.encode(), port)
            case "down" | "up", *_:
                return self._do(f"broker_set_{what}", ctypes.c_int32(1))
        raise ValueError(what)


def main() -> None:
    mock = Mock()
    print(mock.address.rpartition(":")[2], flush=True)  # noqa: T201
    for line in sys.stdin:
        print(mock.obey(*json.loads(line)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
