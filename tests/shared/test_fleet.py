"""Circuits that vote and orders to a fleet: heard by all, never straight to open, and gone when the store is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

import seawall as sw
from seawall.cli import main
from seawall.shared.fleet import Fleet
from seawall.shared.port import StoreDown
from seawall.testing import capture_events
from seawall.testing.servers import RedisServer


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def members(url: str, name: str, number: int, *, zones: str = "", **options: Any) -> list[tuple[Fleet, sw.CircuitBreaker]]:
    """So many processes, as objects: a circuit of one name each."""
    found = []
    for index in range(number):
        zone = zones[index] if zones else ""
        fleet = Fleet(url, name=name, zone=zone, instance=f"i{index}", every=2, budget=5)
        breaker = sw.CircuitBreaker(name=name, consecutive_failures=1, open_for=30)
        fleet.share(breaker, **options)
        found.append((fleet, breaker))
    return found


def fail(breaker: sw.CircuitBreaker) -> None:
    """One failed call opens it."""
    breaker.try_call(lambda: 1 / 0)
    assert breaker.state == "open"


def beat(found: list[tuple[Fleet, sw.CircuitBreaker]]) -> None:
    """One round of everybody."""
    for fleet, _ in found:
        fleet.beat()


def test_a_quorum_sends_the_others_to_half_open_and_never_to_open(valkey: RedisServer, unique: str) -> None:
    """The fault may lie with those that voted, so the others only find out with a few probes."""
    found = members(valkey.url, unique, 4)
    beat(found)
    fail(found[0][1])
    beat(found)
    assert [breaker.state for _, breaker in found] == ["open", "closed", "closed", "closed"]
    fail(found[1][1])
    with capture_events() as events:
        beat(found)
        beat(found)
    assert [breaker.state for _, breaker in found] == ["open", "open", "half_open", "half_open"]
    assert [event.kind for event in events].count("breaker.doubted") == 2
    healthy = found[2][1]
    for _ in range(3):
        assert healthy.call(lambda: 7) == 7
    assert healthy.state == "closed"
    beat(found)
    assert healthy.state == "closed"  # one verdict is heard once
    doubting = found[3][1]
    while doubting.state == "half_open":
        doubting.try_call(lambda: 1 / 0)  # for this one the callee is broken: its own probes say so
    beat(found)
    assert [breaker.state for _, breaker in found] == ["open", "open", "closed", "open"]


def test_a_new_episode_is_heard_again(valkey: RedisServer, unique: str) -> None:
    """The next outage is another verdict."""
    found = members(valkey.url, unique, 3)
    for _ in range(2):
        fail(found[0][1])
        fail(found[1][1])
        beat(found)
        assert found[2][1].state == "half_open"
        for _, breaker in found:
            breaker.reset()
        beat(found)
        assert found[2][1].state == "closed"


def test_votes_of_another_zone_or_of_too_few_are_not_heard(valkey: RedisServer, unique: str) -> None:
    """A zone that is cut off must not doubt for the others; and one of two is no majority of anything."""
    zoned = members(valkey.url, unique, 6, zones="aaabbb")
    for _, breaker in zoned[:3]:
        fail(breaker)
    beat(zoned)
    assert [breaker.state for _, breaker in zoned[3:]] == ["closed"] * 3
    few = members(valkey.url, f"{unique} few", 2)
    fail(few[0][1])
    beat(few)
    assert few[1][1].state == "closed"


def test_a_verdict_on_an_older_epoch_changes_nothing() -> None:
    """Fenced: between the vote and the answer the circuit may have been through an outage of its own."""
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    epoch = breaker.cell.state.epoch
    breaker.reset()
    assert not breaker.doubt(epoch)
    assert breaker.state == "closed"
    assert breaker.doubt(breaker.cell.state.epoch)
    assert breaker.state == "half_open"
    assert not breaker.doubt(breaker.cell.state.epoch)
    breaker.isolate()
    assert not breaker.doubt(breaker.cell.state.epoch)


def test_votes_expire_with_those_who_cast_them(valkey: RedisServer, unique: str) -> None:
    """The dead do not vote."""
    found = members(valkey.url, unique, 4)
    for fleet, _ in found:
        fleet.every = 0.1
    fail(found[0][1])
    fail(found[1][1])
    found[0][0].beat()
    found[1][0].beat()
    time.sleep(0.7)
    found[2][0].every = found[3][0].every = 2
    found[2][0].beat()
    found[3][0].beat()
    assert [breaker.state for _, breaker in found[2:]] == ["closed", "closed"]


def test_when_the_store_is_down_every_process_has_its_own_circuit(own_server: RedisServer) -> None:
    """Never on the path of a call: calls neither wait for the store nor notice that it is gone."""
    breaker = sw.CircuitBreaker(name="stock", consecutive_failures=1)
    fleet = Fleet(own_server.url, every=0.05, budget=0.2)
    fleet.share(breaker)
    with capture_events() as events, fleet:
        until(lambda: any(each.name == "stock" for each in fleet.ls()))
        own_server.kill()
        until(lambda: "fleet.silent" in [event.kind for event in events])
        began = time.monotonic()
        assert all(breaker.call(lambda: 1) for _ in range(1000))
        fail(breaker)
        assert time.monotonic() - began < 1
    with pytest.raises(StoreDown):
        fleet.ls()


def test_people_see_and_order_the_whole_fleet(valkey: RedisServer, unique: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`seawall policy` is what one has at three in the morning."""
    found = members(valkey.url, unique, 2)
    beat(found)
    where = ["--store", valkey.url, "--fleet", unique]
    assert main(["policy", "ls", *where]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(unique)]
    assert {line.split()[-1] for line in lines} == {"i0", "i1"}
    assert main(["policy", "isolate", unique, *where]) == 0
    assert "2 processes" in capsys.readouterr().out
    beat(found)
    assert [breaker.state for _, breaker in found] == ["isolated", "isolated"]
    beat(found)
    assert main(["policy", "ls", "--json", *where]) == 0
    told = [each for each in json.loads(capsys.readouterr().out) if each["name"] == unique]
    assert {each["state"] for each in told} == {"isolated"}
    assert main(["policy", "reset", unique, *where]) == 0
    found[0][1].isolate()
    beat(found)
    beat(found)
    assert [breaker.state for _, breaker in found] == ["closed", "closed"]
    found[0][1].isolate()
    beat(found)
    assert found[0][1].state == "isolated"  # an order is obeyed once


def test_a_process_that_begins_later_obeys_what_stands(valkey: RedisServer, unique: str) -> None:
    """A restart must not undo an isolation."""
    Fleet(valkey.url, name=unique, budget=5).order("isolate", unique)
    found = members(valkey.url, unique, 1)
    beat(found)
    assert found[0][1].state == "isolated"


def test_bad_orders_are_said_with_status_2(capsys: pytest.CaptureFixture[str], valkey: RedisServer, unique: str) -> None:
    """A script must notice that nobody heard it."""
    assert main(["policy", "ls", "--store", "redis://127.0.0.1:1"]) == 2
    assert main(["policy", "ls", "--store", "ftp://x"]) == 2
    assert main(["policy", "isolate", "nobody has this", "--store", valkey.url, "--fleet", unique]) == 1
    assert "redis" in capsys.readouterr().err
    with pytest.raises(TypeError, match="a name that all processes give it"):
        Fleet(valkey.url).share(sw.CircuitBreaker())
    with pytest.raises(TypeError, match="processes share"):
        Fleet("memory:")
    with pytest.raises(ValueError, match="every"):
        Fleet(valkey.url, every=0.001)
