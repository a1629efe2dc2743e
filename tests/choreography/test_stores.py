"""One suite for every database that can hold the two boxes, and the trap that PostgreSQL alone sets: commits out of order."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from postgres_server import Server
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from seawall.choreography import Choreography, ChoreographyError, Envelope, EventError, Relay, Tracker, awrite, event, write
from seawall.choreography.envelope import unwrap, wrap
from seawall.choreography.inbox import SWEPT, Inbox
from seawall.choreography.stores.port import Store, now, open_store
from seawall.demo import choreography as shop


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/boxes.db"
        return
    server: Server = request.getfixturevalue("postgres")
    made = server.database()
    yield made
    server.drop(made)


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """A fresh, empty PostgreSQL database."""
    made = postgres.database()
    yield made
    postgres.drop(made)


class Wire:
    """A broker that keeps what it is given, so that order and repeats can be looked at."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int]] = []

    async def publish(self, topic: str, envelope: Envelope) -> None:
        self.got.append((envelope.subject, envelope.data["total"]))


def rows(url: str, sql: str) -> list[Any]:
    """Ask the database with its own driver."""
    connection: Any = sqlite3.connect(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else psycopg.connect(url)
    try:
        return [tuple(row) for row in connection.execute(sql).fetchall()]
    finally:
        connection.close()


async def opened(url: str) -> Store:
    """A store that is open."""
    store = open_store(url)
    await store.open()
    return store


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what comes, within generous bounds."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def test_every_order_ends_as_its_story_says(url: str, command: Callable[[list[str]], int], capsys: Any) -> None:
    """The whole path on each database: both boxes, relay, compensation, and the tracker's tables behind `seawall saga`."""

    async def story() -> None:
        async with shop.build(url).open(tracker=Tracker(timeout=300)) as service:
            for order, total in (("a", 10), ("b", 500), ("c", 14)):
                await service.publish(shop.OrderCreated(order, total))
            over = "SELECT user_key FROM saga WHERE status IN ('completed', 'compensated')"
            await until(lambda: len(rows(url, over)) == 3)

    asyncio.run(story())
    found: dict[str, list[str]] = {}
    for order, what in rows(url, "SELECT order_id, what FROM done"):
        found.setdefault(order, []).append(what)
    assert {key: sorted(what) for key, what in found.items()} == {
        "a": ["charge", "complete", "reserve"], "b": ["cancel"], "c": ["cancel", "charge", "refund"],
    }  # fmt: skip
    assert command(["saga", "ls", "--json", "--url", url]) == 0
    listed = {row["id"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert listed == {"a": "completed", "b": "compensated", "c": "compensated"}


def test_a_repeat_is_dropped_and_poison_is_buried_and_replayed(url: str) -> None:
    """No duplicate committed handling; a handler that fails leaves nothing behind, and is not asked for ever."""
    broken = True
    flow = Choreography("flow", store=url, correlation="order_id", starts=[shop.OrderCreated])

    @flow.on(shop.OrderCreated, publishes=[])
    async def take(order: Any, tx: Any) -> None:
        await tx.aexecute("CREATE TABLE IF NOT EXISTS taken (order_id TEXT)")
        await tx.aexecute("INSERT INTO taken VALUES (?)", (order.order_id,))
        if broken and order.order_id == "bad":
            raise ValueError("poison")

    async def story() -> None:
        nonlocal broken
        async with flow.open(tries=3, relay={"backoff": 0.01}) as service:
            bad = await service.publish(shop.OrderCreated("bad", 1))
            good = await service.publish(shop.OrderCreated("good", 1))
            async with asyncio.timeout(30):
                while not (dead := await service.inbox.dead()):
                    await asyncio.sleep(0.01)
            assert [(side, consumer, message) for _, side, consumer, message, _ in dead] == [("inbox", "flow.take", bad.id)]
            await service.deliver(good)
            await service.deliver(good)
            broken = False
            await service.replay(dead[0][0])
            assert await service.inbox.dead() == []

    asyncio.run(story())
    assert sorted(rows(url, "SELECT order_id FROM taken")) == [("bad",), ("good",)]


def test_two_deliveries_at_once_are_handled_once(url: str) -> None:
    """A broker that gives one message to two processes must find one of them waiting for the other's commit."""
    flow = Choreography("flow", store=url, correlation="order_id", starts=[shop.OrderCreated])
    ran: list[str] = []

    @flow.on(shop.OrderCreated, publishes=[])
    async def take(order: Any, tx: Any) -> None:
        ran.append(order.order_id)
        await asyncio.sleep(0.05)

    async def story() -> None:
        envelope = wrap(shop.OrderCreated("a", 1), source="test", correlation="a")
        async with flow.open() as first, flow.open() as second:
            await asyncio.gather(*(service.deliver(envelope) for service in (first, second, first)))
        assert ran == ["a"]

    asyncio.run(story())


def test_of_two_relays_one_works_and_the_other_takes_over(url: str) -> None:
    """Two relays at work would invert the order of a key."""

    async def story() -> None:
        first, second = await opened(url), await opened(url)
        assert [await first.lead(), await second.lead(), await first.lead()] == [True, False, True]
        await first.close()
        await until_leads(second)
        await second.close()

    asyncio.run(story())


async def until_leads(store: Store) -> None:
    """The server may take a moment to see that a connection is gone."""
    async with asyncio.timeout(30):
        while not await store.lead():
            await asyncio.sleep(0.02)


def test_what_is_old_is_swept_and_what_is_needed_stays(url: str) -> None:
    """Boxes that grow for ever fill the disk; an id that is forgotten too soon lets a repeat in."""

    async def story() -> None:
        store = await opened(url)
        inbox, relay = Inbox(store, retention=100.0), Relay(store, Wire(), retention=100.0)  # type: ignore[arg-type]
        async with store.transaction() as session:
            for number in range(SWEPT + 5):
                age = 50.0 if number < 3 else 200.0
                await session.run(
                    "INSERT INTO inbox (consumer, message_id, received, done) VALUES ('c', ?, 0, ?)", (str(number), now() - age)
                )
            await session.run("INSERT INTO inbox (consumer, message_id, received) VALUES ('c', 'open', 0)")
            for total in range(4):
                write(session.connection, "orders", shop.OrderCreated("a", total), correlation="a")
            await session.run("UPDATE outbox SET published=? WHERE position <= 2", (now() - 200,))
            await session.run("UPDATE outbox SET published=? WHERE position = 3", (now() - 50,))
        assert [await inbox.sweep(), await inbox.sweep()] == [SWEPT, 2]
        assert await relay.sweep(at_once=True) == 2
        assert await relay.once() == 1, "what was not sent is never swept"
        await store.close()

    asyncio.run(story())
    assert rows(url, "SELECT COUNT(*) FROM inbox") == [(4,)]


def test_housekeeping_runs_by_itself(url: str) -> None:
    """Nobody remembers to call a sweep."""
    flow = Choreography("flow", store=url, correlation="order_id", starts=[shop.OrderCreated])
    flow.on(shop.OrderCreated, publishes=[])(_ignore)

    async def story() -> None:
        store = await opened(url)
        async with store.transaction() as session:
            await session.run("INSERT INTO inbox (consumer, message_id, received, done) VALUES ('c', 'old', 0, 1.0)")
        await store.close()
        async with flow.open():
            await until(lambda: rows(url, "SELECT 1 FROM inbox") == [])

    asyncio.run(story())


def _ignore(value: Any, tx: Any) -> None:
    """A handler with nothing to do."""


@pytest.mark.parametrize("kind", ["driver", "session", "connection", "async driver", "async session", "async connection"])
def test_an_event_lives_and_dies_with_the_business_transaction(kind: str, database: str) -> None:
    """On each kind of connection that services have in their hands: announced if the order was committed, and only then."""
    alchemy = database.replace("postgresql:", "postgresql+psycopg:")
    order = shop.OrderCreated("a", 1)

    def plainly(commit: bool) -> None:
        engine = create_engine(alchemy)
        made: Any = {"driver": lambda: psycopg.connect(database), "session": lambda: Session(engine)}.get(kind, engine.connect)()
        write(made, "orders", order, correlation="a", ordered=commit)
        made.commit() if commit else made.rollback()
        made.close()
        engine.dispose()

    async def async_(commit: bool) -> None:
        engine = create_async_engine(alchemy)
        if kind == "async driver":
            made: Any = await psycopg.AsyncConnection.connect(database)
        else:
            made = AsyncSession(engine) if kind == "async session" else await engine.connect()
        await awrite(made, "orders", order, correlation="a", ordered=commit)
        await (made.commit() if commit else made.rollback())
        await made.close()
        await engine.dispose()

    async def story() -> None:
        await (await opened(database)).close()
        for commit in (False, True):
            await (async_(commit) if kind.startswith("async") else asyncio.to_thread(plainly, commit))
            assert rows(database, "SELECT COUNT(*) FROM outbox") == [(int(commit),)]

    asyncio.run(story())
    with pytest.raises(ChoreographyError, match="asynchronous one"):
        asyncio.run(awrite(object(), "orders", order, correlation="a"))


def test_what_commits_late_is_neither_lost_nor_overtaken_by_its_successors(database: str) -> None:
    """The classic outbox bug: a relay that remembers the highest number skips what was numbered early and committed late."""

    async def story() -> None:
        store, wire = await opened(database), Wire()
        relay = Relay(store, wire)  # type: ignore[arg-type]
        early, late = psycopg.connect(database), psycopg.connect(database)
        write(early, "orders", shop.OrderCreated("a", 1), correlation="a")
        write(late, "orders", shop.OrderCreated("b", 2), correlation="b")
        late.commit()
        assert await relay.once() == 0, "nothing may pass the transaction that still runs"
        early.commit()
        assert await relay.once() == 2
        assert wire.got == [("a", 1), ("b", 2)]
        write(early, "orders", shop.OrderCreated("a", 3), correlation="a")
        early.rollback()
        write(late, "orders", shop.OrderCreated("a", 4), correlation="a")
        late.commit()
        assert await relay.once() == 1
        assert wire.got[2:] == [("a", 4)]
        for connection in (early, late):
            connection.close()
        await store.close()

    asyncio.run(story())


def test_ordered_writers_of_one_key_wait_for_each_other(database: str) -> None:
    """Without the lock, one that has its number first may commit last, and its event is sent after the other's."""

    async def story() -> None:
        store, wire = await opened(database), Wire()
        relay = Relay(store, wire)  # type: ignore[arg-type]
        first, second, other = (psycopg.connect(database) for _ in range(3))
        write(first, "orders", shop.OrderCreated("a", 1), correlation="a", ordered=True)
        write(other, "orders", shop.OrderCreated("b", 9), correlation="b", ordered=True)
        other.commit()
        waiting = asyncio.create_task(
            asyncio.to_thread(write, second, "orders", shop.OrderCreated("a", 2), correlation="a", ordered=True)
        )
        blocked = "SELECT COUNT(*) FROM pg_locks WHERE locktype='advisory' AND NOT granted"
        await until(lambda: rows(database, blocked) == [(1,)])
        assert not waiting.done()
        first.commit()
        await waiting
        second.commit()
        async with asyncio.timeout(30):
            while len(wire.got) < 3:
                await relay.once()
        assert [total for key, total in wire.got if key == "a"] == [1, 2]
        for connection in (first, second, other):
            connection.close()
        await store.close()

    asyncio.run(story())


def test_an_ordered_choreography_takes_the_lock_of_its_key(database: str) -> None:
    """What handlers publish must keep to the same order as what services write by hand."""
    flow = Choreography("flow", store=database, correlation="order_id", starts=[shop.OrderCreated], ordered=True)
    flow.on(shop.OrderCreated, publishes=[])(_ignore)

    async def story() -> None:
        async with flow.open() as service:
            mine = psycopg.connect(database)
            write(mine, "flow", shop.OrderCreated("a", 1), correlation="a", ordered=True)
            publishing = asyncio.create_task(service.publish(shop.OrderCreated("a", 2)))
            blocked = "SELECT COUNT(*) FROM pg_locks WHERE locktype='advisory' AND NOT granted"
            await until(lambda: rows(database, blocked) == [(1,)])
            mine.commit()
            await publishing
            mine.close()
            await until(lambda: rows(database, "SELECT COUNT(*) FROM inbox WHERE done IS NOT NULL") == [(2,)])

    asyncio.run(story())


def test_a_service_starts_while_others_are_in_the_middle_of_their_transactions(url: str) -> None:
    """To look whether the tables are there must lock none of them: a start would wait for every handler, or deadlock with one."""

    async def main() -> None:
        store = await opened(url)
        async with store.transaction() as session:
            await session.run("INSERT INTO inbox (consumer, message_id, received) VALUES ('c', 'open', 0)")
            async with asyncio.timeout(60):
                other = await opened(url)
        await other.close()
        await store.close()

    asyncio.run(main())


def test_a_server_that_crashes_loses_nothing_and_is_found_again(tmp_path: Path) -> None:
    """The database goes down under a relay at work and comes back: everything that was committed is sent and handled once."""
    server = Server(fsync=True)
    try:
        url = server.database()
        flow = Choreography("flow", store=url, correlation="order_id", starts=[shop.OrderCreated])

        @flow.on(shop.OrderCreated, publishes=[])
        async def take(order: Any, tx: Any) -> None:
            await tx.aexecute("CREATE TABLE IF NOT EXISTS taken (order_id TEXT)")
            await tx.aexecute("INSERT INTO taken VALUES (?)", (order.order_id,))

        async def story() -> list[str]:
            told: list[str] = []
            async with flow.open(relay={"backoff": 0.02}, tries=1000) as service:
                for number in range(60):
                    if number == 30:
                        await asyncio.to_thread(server.stop, crash=True)
                        with pytest.raises(ChoreographyError, match="does not answer"):
                            await service.publish(shop.OrderCreated("never", 1))
                        await asyncio.to_thread(server.start)
                    async with asyncio.timeout(60):  # connections of before the crash are found broken one by one
                        while not await publishes(service, f"o{number}"):
                            await asyncio.sleep(0.02)
                    told.append(f"o{number}")
                await until(lambda: len(rows(url, "SELECT DISTINCT order_id FROM taken")) >= 60, 60)
                handled = "SELECT COUNT(*) FROM outbox WHERE published IS NULL"
                await until(lambda: rows(url, handled) == [(0,)], 60)
            return told

        told = asyncio.run(story())
        taken = sorted(order for (order,) in rows(url, "SELECT order_id FROM taken"))
        assert set(told) <= set(taken)
        assert len(taken) == rows(url, "SELECT COUNT(*) FROM inbox WHERE done IS NOT NULL")[0][0], "each event once"
    finally:
        server.close()


async def publishes(service: Any, order: str) -> bool:
    """Whether an order could be published."""
    try:
        await service.publish(shop.OrderCreated(order, 1))
    except ChoreographyError:
        return False
    return True


def test_a_store_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    """A typed error with what to do, and no password in it."""
    for url, says in (
        ("oracle://x", "store must be sqlite:///FILE or postgresql://"),
        ("sqlite:///:memory:", "with a file that outlives the process"),
        ("postgresql://a:hush@127.0.0.1:1/x", "does not answer"),
        ("postgresql://a:hush@h/x?nonsense=1", "store must read like"),
        (f"sqlite:///{tmp_path}/nowhere/x.db", "cannot be used"),
    ):
        with pytest.raises(ChoreographyError, match=says) as told:
            asyncio.run(opened(url))
        assert "hush" not in str(told.value)


@event
class Packed(msgspec.Struct):
    """An event of msgspec."""

    order_id: str
    boxes: int


def test_events_may_be_structs_of_msgspec() -> None:
    """Teams have one way to write messages, and it is not always dataclasses."""
    envelope = wrap(Packed("a", 2), source="s", correlation="a")
    assert unwrap(Envelope.read(envelope.text()), Packed) == Packed("a", 2)
    with pytest.raises(EventError):
        unwrap(Envelope.read(envelope.text().replace('"boxes":2', '"boxes":"many"')), Packed)
