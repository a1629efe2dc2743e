"""The shop by events on one file, and on a real NATS: every order ends, every undo happens, and the tracker sees it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from seawall.choreography import Tracker
from seawall.demo import choreography as shop
from seawall.saga import Sagas, store

WANTED = {
    "a": ["charge", "reserve", "complete"],
    "b": ["cancel"],
    "c": ["charge", "refund", "cancel"],
}


async def ended(path: Path, count: int, seconds: float = 15) -> dict[str, str]:
    async with asyncio.timeout(seconds):
        while True:
            with sqlite3.connect(path) as connection:
                rows = dict(connection.execute("SELECT user_key, status FROM saga").fetchall())
            connection.close()
            if len(rows) == count and set(rows.values()) <= {"completed", "compensated"}:
                return rows
            await asyncio.sleep(0.05)


def done(path: Path) -> dict[str, list[str]]:
    connection = sqlite3.connect(path)
    found: dict[str, list[str]] = {}
    for order, what in connection.execute("SELECT order_id, what FROM done ORDER BY rowid"):
        found.setdefault(order, []).append(what)
    connection.close()
    return found


def test_the_command_line_shows_what_went_by_events(
    tmp_path: Path, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """One place to look, whether a saga was orchestrated or not; and no word can be given to what nobody conducts."""
    path = tmp_path / "orders.db"

    async def story() -> None:
        async with shop.build(f"sqlite:///{path}", "memory:").open(tracker=Tracker(timeout=300)) as service:
            for order, total in (("a", 10), ("c", 14)):
                await service.publish(shop.OrderCreated(order, total))
            await ended(path, 2)

    asyncio.run(story())
    url = ["--url", f"sqlite:///{path}"]
    said = {}
    for words in (["ls"], ["show", "c"], ["why", "a"]):
        assert command(["saga", *words, *url]) == 0
        said[words[0]] = capsys.readouterr().out
    assert "compensated" in said["ls"]
    assert "undo" in said["show"]
    assert "It completed" in said["why"]
    assert command(["saga", "cancel", "c", *url, "--actor", "ann", "--reason", "x"]) == 2
    assert "goes as its events say" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["memory", "nats"])
def test_every_order_ends_as_its_story_says(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The whole path is real: outbox, relay, broker, inbox, tracker; completed, cancelled and refunded orders."""
    url = "memory:" if kind == "memory" else request.getfixturevalue("nats").url
    path = tmp_path / "orders.db"

    async def story() -> dict[str, str]:
        async with shop.build(f"sqlite:///{path}", url).open(tracker=Tracker(timeout=300)) as service:
            for order, total in (("a", 10), ("b", 500), ("c", 14)):
                await service.publish(shop.OrderCreated(order, total))
            return await ended(path, 3)

    assert asyncio.run(story()) == {"a": "completed", "b": "compensated", "c": "compensated"}
    assert done(path) == WANTED

    async def view() -> list[tuple[str, str, str]]:
        async with Sagas(f"sqlite:///{path}", worker=False) as sagas:
            row = await sagas.read(lambda tx: store.find(tx, "c"))
        return [(record.step, record.phase, record.outcome) for record in row.records if record.step != "OrderCreated"]

    steps = asyncio.run(view())
    assert sorted(steps) == [
        ("cancel", "do", "ok"), ("charge", "do", "ok"), ("charge", "undo", "ok"), ("reserve", "do", "rejected"),
    ]  # fmt: skip
