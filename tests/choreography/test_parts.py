"""The parts one by one: envelopes and versions, the graph's checks, both boxes, dead letters, late sagas."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pydantic
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from seawall.choreography import (
    Choreography,
    ChoreographyError,
    Envelope,
    EventError,
    GraphError,
    Relay,
    Tracker,
    event,
    upcast,
    write,
)
from seawall.choreography.envelope import unwrap, wrap
from seawall.choreography.inbox import Inbox
from seawall.choreography.stores.sqlite import SqliteStore
from seawall.demo import choreography as shop


@event(name="Priced", version=3)
class Priced:
    order_id: str
    cents: int


@upcast(Priced, version=1)
def cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": data["order_id"], "price": data["euros"] * 100}


@upcast(Priced, version=2)
def renamed(data: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": data["order_id"], "cents": data["price"]}


@event
class Weighed(pydantic.BaseModel):
    order_id: str
    grams: int


def test_an_envelope_says_what_caused_it_and_reads_as_it_was_written() -> None:
    """Correlation, cause, step, key and trace must survive the wire, or nobody can follow a saga."""
    first = wrap(Weighed(order_id="a", grams=3), source="order", correlation="a", trace="00-ab-cd-01")
    second = wrap(Priced("a", 5), source="payment", correlation="a", cause=first, step="price")
    assert Envelope.read(second.text()) == second
    assert (second.causationid, second.sagastep, second.traceparent) == (first.id, "price", "00-ab-cd-01")
    assert second.idempotencykey == f"{first.id}:price:0"
    assert unwrap(Envelope.read(first.text()), Weighed) == Weighed(order_id="a", grams=3)
    with pytest.raises(EventError, match="no event of ours"):
        Envelope.read("{}")


def test_old_events_are_brought_up_one_version_at_a_time_and_newer_ones_refused() -> None:
    """Events of an old release stay in brokers and dead letters for weeks."""
    fields: dict[str, Any] = {"id": "1", "type": "Priced", "source": "s", "subject": "a", "time": "t", "correlationid": "a"}
    assert unwrap(Envelope(**fields, schema=1, data={"order_id": "a", "euros": 2}), Priced) == Priced("a", 200)
    with pytest.raises(EventError, match="came as version 4"):
        unwrap(Envelope(**fields, schema=4, data={}), Priced)
    with pytest.raises(EventError, match="version must be 1 to 2"):
        upcast(Priced, version=3)


def test_a_graph_with_a_gap_is_refused_with_every_gap_named() -> None:
    """A missing compensation found in production is money lost; found at the start it is a message."""
    bad = Choreography(
        "bad", store="sqlite:///x.db", correlation="order_id", starts=[shop.OrderCreated], ends=[shop.OrderCompleted]
    )
    bad.on(shop.OrderCreated, publishes=[shop.PaymentCharged])(_named("charge"))
    bad.on(shop.PaymentCharged, publishes=[shop.InventoryReserved, shop.InventoryRejected])(_named("reserve"))
    bad.on(shop.PaymentRefunded, publishes=[shop.OrderCompleted])(_named("finish"))
    bad.on(shop.InventoryReserved, publishes=[shop.OrderCancelled])(_named("loop"))
    bad.on(shop.OrderCancelled, publishes=[shop.InventoryReserved])(_named("pool"))
    with pytest.raises(GraphError) as caught:
        bad.check()
    words = "\n".join(caught.value.problems)
    assert "InventoryRejected is published and nobody handles it" in words
    assert "PaymentRefunded is handled and nobody publishes it" in words
    assert "InventoryReserved is in a cycle without an exit" in words
    assert "InventoryRejected of reserve does not undo charge" in words
    good = shop.build("sqlite:///x.db")
    assert good.graph().problems() == ()
    assert "InventoryRejected -.-> payment.refund" in good.mermaid()


def _named(name: str) -> Any:
    def handler(value: Any, tx: Any) -> None:
        return None

    handler.__name__ = name
    return handler


@pytest.mark.parametrize("kind", ["sqlite3", "session", "engine connection"])
def test_an_event_lives_and_dies_with_the_business_transaction(kind: str, tmp_path: Path) -> None:
    """The outbox is worth nothing if a rolled-back order is announced, or a committed one is not."""
    path = tmp_path / "o.db"
    asyncio.run(SqliteStore(f"sqlite:///{path}").open())
    engine = create_engine(f"sqlite:///{path}")
    for commit in (False, True):
        if kind == "sqlite3":
            made: Any = sqlite3.connect(path)
        else:
            made = Session(engine) if kind == "session" else engine.connect()
        made.execute("CREATE TABLE IF NOT EXISTS mine (x)" if kind == "sqlite3" else text("CREATE TABLE IF NOT EXISTS mine (x)"))
        write(made, "orders", shop.OrderCreated("a", 1), correlation="a")
        made.commit() if commit else made.rollback()
        made.close()
        check = sqlite3.connect(path)
        assert check.execute("SELECT COUNT(*) FROM outbox").fetchone() == (int(commit),)
        check.close()
    engine.dispose()
    with pytest.raises(ChoreographyError, match="connection must be"):
        write(object(), "orders", shop.OrderCreated("a", 1), correlation="a")


def test_a_repeat_is_dropped_and_poison_goes_to_the_dead_letters_and_back(tmp_path: Path) -> None:
    """One bad event must neither block the queue for ever nor vanish; a redelivery must not be handled again."""
    ends: list[str] = []
    broken = True
    flow = Choreography("flow", store=f"sqlite:///{tmp_path}/f.db", correlation="order_id", starts=[shop.OrderCreated])

    @flow.on(shop.OrderCreated, publishes=[])
    async def take(order: Any, tx: Any) -> None:
        await shop.note(tx, order.order_id, "taken")
        if broken and order.order_id == "bad":
            raise ValueError("poison")
        ends.append(order.order_id)

    async def story() -> None:
        nonlocal broken
        async with flow.open(tries=3, relay={"backoff": 0.01}) as service:
            bad = await service.publish(shop.OrderCreated("bad", 1))
            good = await service.publish(shop.OrderCreated("good", 1))
            async with asyncio.timeout(30):
                while not (dead := await service.inbox.dead()) or "good" not in ends:
                    await asyncio.sleep(0.01)
            assert [(side, consumer, message) for _, side, consumer, message, _ in dead] == [("inbox", "flow.take", bad.id)]
            await service.deliver(good)
            broken = False
            await service.replay(dead[0][0])
            assert ends == ["good", "bad"]
            assert await service.inbox.dead() == []
            with pytest.raises(ChoreographyError, match="no dead letter"):
                await service.replay(dead[0][0])
            async with service.store.transaction() as session:
                assert await session.run("SELECT order_id FROM done") == [("good",), ("bad",)]

    asyncio.run(story())


def test_of_two_relays_one_works_and_the_other_takes_over(tmp_path: Path) -> None:
    """Two relays at work would invert the order of a key."""

    async def story() -> None:
        first, second = SqliteStore(f"sqlite:///{tmp_path}/r.db"), SqliteStore(f"sqlite:///{tmp_path}/r.db")
        await first.open()
        await second.open()
        assert [await first.lead(), await second.lead(), await first.lead()] == [True, False, True]
        await first.close()
        assert await second.lead()
        await second.close()

    asyncio.run(story())


def test_republishing_what_the_broker_lost_handles_nothing_twice(tmp_path: Path) -> None:
    """A broker may lose what it acknowledged; the outbox keeps it, and inboxes drop the rest (O3)."""
    orders = shop.build(f"sqlite:///{tmp_path}/o.db")

    async def story() -> None:
        async with orders.open(tracker=Tracker()) as service:
            await service.publish(shop.OrderCreated("a", 10))
            await sent(service, 4)
            assert await service.relay.republish(0.0) == 4
            await sent(service, 8)
            async with service.store.transaction() as session:
                assert await session.run("SELECT what FROM done") == [("charge",), ("reserve",), ("complete",)]
            service.relay.retention = 0.0
            assert await service.relay.sweep(at_once=True) == 4

    async def sent(service: Any, count: int) -> None:
        async with asyncio.timeout(30):
            while service.relay.sent < count:
                await asyncio.sleep(0.01)

    asyncio.run(story())


def test_a_late_saga_is_marked_and_announced_once(tmp_path: Path) -> None:
    """A service that never answers must be seen, and the others told."""
    flow = Choreography(
        "late", store=f"sqlite:///{tmp_path}/l.db", correlation="order_id", starts=[shop.OrderCreated, shop.PaymentDeclined],
        ends=[shop.OrderCancelled],
    )  # fmt: skip
    told: list[str] = []

    @flow.on(shop.OrderCreated, publishes=[], undo=False)
    def swallow(order: Any, tx: Any) -> None:
        return None

    @flow.on(shop.PaymentDeclined, publishes=[shop.OrderCancelled], undo=False)
    def tell(declined: Any, tx: Any) -> shop.OrderCancelled:
        told.append(declined.order_id)
        return shop.OrderCancelled(declined.order_id)

    async def story() -> None:
        tracker = Tracker(timeout=0.05, late=shop.PaymentDeclined, every=0.02)
        async with flow.open(tracker=tracker) as service:
            await service.publish(shop.OrderCreated("a", 10))
            async with asyncio.timeout(30):
                while not told:
                    await asyncio.sleep(0.01)
            async with service.store.transaction() as session:
                ((error,),) = await session.run("SELECT error FROM saga WHERE user_key='a'")
            assert "timeout" in error or "PaymentDeclined" in error
            assert await tracker.overdue() == []
            assert told == ["a"]

    asyncio.run(story())


def test_an_event_that_cannot_be_sent_holds_back_its_own_key_and_dies_after_n(tmp_path: Path) -> None:
    """A key that fails must neither stop the others nor let its later events overtake it."""

    class Choosy:
        """Refuses the events of one key: a fault that no real broker shows on demand."""

        refuses, got = True, list[tuple[str, int]]()

        async def publish(self, topic: str, envelope: Envelope) -> None:
            if self.refuses and envelope.subject == "bad":
                raise OSError("refused")
            self.got.append((envelope.subject, envelope.data["total"]))

    async def story() -> None:
        store, broker = SqliteStore(f"sqlite:///{tmp_path}/o.db"), Choosy()
        await store.open()
        inbox, relay = Inbox(store), Relay(store, broker, tries=3, backoff=0.001)  # type: ignore[arg-type]
        async with store.transaction() as session:
            for total, key in enumerate(["bad", "good", "bad", "good"]):
                write(session.connection, "orders", shop.OrderCreated(key, total), correlation=key)
        assert await relay.once() == 2
        assert broker.got == [("good", 1), ("good", 3)]
        async with asyncio.timeout(30):
            while len(dead := await inbox.dead()) < 2:
                await asyncio.sleep(0.002)
                await relay.once()
        assert [side for _, side, _, _, _ in dead] == ["outbox", "outbox"]
        broker.refuses, relay.retention = False, 0.0
        await relay.sweep(at_once=True)
        for number, *_ in dead:
            await inbox.revive(number)
        assert await relay.once() == 2
        assert broker.got[2:] == [("bad", 0), ("bad", 2)]
        assert await inbox.dead() == []
        await store.close()

    asyncio.run(story())
