"""O1 and O2 against real processes and a real NATS: relays, consumers and the broker are killed; no event is lost or doubled."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

NAMES = ("order", "payment", "inventory")


class Fleet:
    """Three services, each with its own file; the first also feeds orders."""

    def __init__(self, home: Path, broker: str, orders: int) -> None:
        self.home, self.broker, self.orders = home, broker, orders
        self.processes = {name: self.start(name) for name in NAMES}

    def start(self, name: str) -> subprocess.Popen[str]:
        url = f"sqlite:///{self.home / name}.db"
        command = [sys.executable, "-m", "seawall.demo.choreography", url, self.broker, name, str(self.orders)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()
        self.processes[name] = self.start(name)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def read(self, name: str, sql: str) -> list[Any]:
        connection = sqlite3.connect(self.home / f"{name}.db", timeout=30)
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []
        finally:
            connection.close()

    def ended(self) -> int:
        rows = self.read("order", "SELECT COUNT(*) FROM saga WHERE status IN ('completed', 'compensated')")
        return rows[0][0] if rows else 0


def campaign(fleet: Fleet, nats: Any, orders: int, kills: int, seed: int, seconds: float) -> Counter[str]:
    """Kill somebody at every so many ended orders, in turn, then wait for the end."""
    dice, killed, end = random.Random(seed), Counter[str](), time.monotonic() + seconds
    victims = [(*NAMES, "broker")[n % 4] for n in range(kills)]
    while (ended := fleet.ended()) < orders:
        assert time.monotonic() < end, f"only {ended} of {orders} orders have ended; killed {killed}"
        if victims and ended >= orders * sum(killed.values()) / (kills + 1):
            victim = victims.pop(0)
            killed[victim] += 1
            if victim == "broker":
                nats.kill()
                time.sleep(dice.uniform(0.1, 0.5))
                nats.start()
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
        for key, event in fleet.read(
            "order", "SELECT saga_id, json_extract(result, '$.id') FROM saga_step ORDER BY saga_id, seq"
        ):
            if event in place:
                wrong += place[event] < seen.get(key, 0)
                seen[key] = place[event]
    return wrong


@pytest.mark.timeout(9000)
@pytest.mark.parametrize(("orders", "kills"), [(500, 8), pytest.param(25_000, 120, marks=pytest.mark.soak)])
def test_no_event_is_lost_or_handled_twice(
    orders: int, kills: int, tmp_path: Path, nats: Any, request: pytest.FixtureRequest
) -> None:
    """SIGKILL of each service (relay and consumer at once) and of the broker, over four events an order: lost 0, doubled 0."""
    if orders > 1000 and float(request.config.getoption("--seconds")) < 60:
        pytest.skip("the campaign over 10^5 events needs --seconds 60 or more")
    fleet = Fleet(tmp_path, nats.url, orders)
    try:
        killed = campaign(fleet, nats, orders, kills, request.config.getoption("--seed"), orders * 0.3 + 60)
        assert sum(killed.values()) >= min(kills, 4)
        totals = verify(fleet, orders)
        assert inversions(fleet) == 0
        print(f"{orders} orders, killed {dict(killed)}, handled {dict(totals)}")
    finally:
        fleet.stop()
