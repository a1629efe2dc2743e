"""O1 and O2 against real processes and a real NATS: relays, consumers and the broker are killed; no event is lost or doubled."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

NAMES = ("order", "payment", "inventory")


class Fleet:
    """Three services, each with its own database; the first also feeds orders. urls: of the databases, by service. apart: with
    relay and handlers of each in processes of their own."""

    def __init__(self, urls: dict[str, str], broker: str, orders: int, *, apart: bool = False) -> None:
        self.urls, self.broker, self.orders = urls, broker, orders
        parts = [f"{name} {part}" for part in ("relay", "handlers") for name in NAMES] if apart else NAMES
        self.processes = {part: self.start(part) for part in parts}

    def start(self, part: str) -> subprocess.Popen[str]:
        name, _, half = part.partition(" ")
        command = [sys.executable, "-m", "seawall.demo.choreography", self.urls[name], self.broker, name, str(self.orders)]
        return subprocess.Popen([*command, *half.split()], stdout=subprocess.DEVNULL, text=True)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()
        self.processes[name] = self.start(name)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def read(self, name: str, sql: str) -> list[Any]:
        url = self.urls[name]
        lite = url.startswith("sqlite")
        connection: Any = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30) if lite else psycopg.connect(url)
        try:
            return [tuple(row) for row in connection.execute(sql).fetchall()]
        except (sqlite3.OperationalError, psycopg.errors.UndefinedTable) as error:
            if "no such table" not in str(error) and "does not exist" not in str(error):
                raise
            return []
        finally:
            connection.close()

    def ended(self) -> int:
        rows = self.read("order", "SELECT COUNT(*) FROM saga WHERE status IN ('completed', 'compensated')")
        return rows[0][0] if rows else 0


def campaign(fleet: Fleet, server: Any, orders: int, kills: int, seed: int, seconds: float) -> Counter[str]:
    """Kill somebody at every so many ended orders, in turn, then wait for the end. server: None spares the broker."""
    dice, killed, end = random.Random(seed), Counter[str](), time.monotonic() + seconds
    parts = [*fleet.processes, *(() if server is None else ("broker",))]
    victims = [parts[n % len(parts)] for n in range(kills)]
    while (ended := fleet.ended()) < orders:
        assert time.monotonic() < end, f"only {ended} of {orders} orders have ended; killed {killed}"
        if victims and ended >= orders * sum(killed.values()) / (kills + 1):
            victim = victims.pop(0)
            killed[victim] += 1
            if victim == "broker":
                server.kill()
                time.sleep(dice.uniform(0.1, 0.5))
                server.start()
            else:
                fleet.kill(victim)
        time.sleep(dice.uniform(0.1, 0.3))
    return killed


def verify(fleet: Fleet, orders: int) -> Counter[str]:
    """Every order has exactly the rows of its story, over all three files, and every committed event was sent."""
    found: dict[str, Counter[str]] = {}
    for name in NAMES:
        for order, what in fleet.read(name, "SELECT order_id, what FROM done"):
            found.setdefault(order, Counter())[what] += 1
        assert fleet.read(name, "SELECT COUNT(*) FROM dead_letter") == [(0,)]
    totals: Counter[str] = Counter()
    for number in range(1, orders + 1):
        declined, rejected = number % 10 == 0, (number % 90 + 1) % 7 == 0
        story = ["cancel"] if declined else ["charge", "refund", "cancel"] if rejected else ["charge", "reserve", "complete"]
        assert found.pop(f"order-{number}", None) == Counter(story), number
        totals.update(story)
    assert not found
    return totals


def inversions(fleet: Fleet) -> int:
    """Events of one order that the tracker saw before what its own service had sent before them."""
    wrong = 0
    for name in NAMES:
        place = dict(fleet.read(name, "SELECT id, position FROM outbox"))
        seen: dict[str, int] = {}
        for key, result in fleet.read("order", "SELECT saga_id, result FROM saga_step ORDER BY saga_id, seq"):
            event = json.loads(result)["id"]
            if event in place:
                wrong += place[event] < seen.get(key, 0)
                seen[key] = place[event]
    return wrong


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Three empty databases of a kind."""

    def made(kind: str) -> dict[str, str]:
        if kind == "sqlite":
            return {name: f"sqlite:///{tmp_path / name}.db" for name in NAMES}
        server = request.getfixturevalue("postgres")
        return {name: server.database() for name in NAMES}

    return made


@pytest.mark.timeout(9000)
@pytest.mark.parametrize(("store", "broker", "orders", "kills", "apart"), [
    ("sqlite", "nats", 500, 8, False),
    ("postgresql", "nats", 200, 8, False),
    ("postgresql", "nats", 200, 14, True),
    ("sqlite", "redis", 200, 14, True),
    ("sqlite", "rabbitmq", 200, 8, False),
    pytest.param("sqlite", "nats", 25_000, 120, False, marks=pytest.mark.soak),
    pytest.param("postgresql", "redis", 25_000, 120, True, marks=pytest.mark.soak),
])  # fmt: skip
def test_no_event_is_lost_or_handled_twice(
    store: str, broker: str, orders: int, kills: int, apart: bool, urls: Callable[[str], dict[str, str]],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """SIGKILL of each service, or of relays and consumers apart, and of the broker, four events an order: lost 0, doubled 0."""
    if orders > 1000 and float(request.config.getoption("--seconds")) < 60:
        pytest.skip("the campaign over 10^5 events needs --seconds 60 or more")
    server = request.getfixturevalue(broker)
    fleet = Fleet(urls(store), server.url, orders, apart=apart)
    try:
        killed = campaign(fleet, server, orders, kills, request.config.getoption("--seed"), orders * 0.3 + 60)
        assert sum(killed.values()) >= min(kills, 4)
        totals = verify(fleet, orders)
        assert inversions(fleet) == 0
        print(f"{orders} orders, killed {dict(killed)}, handled {dict(totals)}")
    finally:
        fleet.stop()


@pytest.mark.timeout(1800)
def test_no_event_is_lost_or_handled_twice_over_kafka(
    urls: Callable[[str], dict[str, str]], request: pytest.FixtureRequest
) -> None:
    """SIGKILL of each service over Kafka. The broker is spared: it is librdkafka's mock cluster, which keeps nothing on disk, so
    to kill it would lose what it acknowledged, and say nothing of Kafka."""
    server = request.getfixturevalue("kafka")
    fleet = Fleet(urls("sqlite"), server.url, 200)
    try:
        killed = campaign(fleet, None, 200, 9, request.config.getoption("--seed"), 600)
        assert sum(killed.values()) >= 3
        totals = verify(fleet, 200)
        assert inversions(fleet) == 0
        print(f"200 orders, killed {dict(killed)}, handled {dict(totals)}")
    finally:
        fleet.stop()
