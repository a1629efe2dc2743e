"""A participant's functions: sync and async, in a file of its own and in the service's own transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from seawall.saga import Call, Context, Participant, Saga, SagaCompensated, Sagas, Unknown, step
from seawall.saga.errors import BadCall, EffectBusy, EffectExpired, EffectUndone, KeyReused, StaleFence
from seawall.saga.lease import Fence
from seawall.testing import VirtualClock


class Stock:
    """A service with two guarded functions."""

    def __init__(self, participant: Participant) -> None:
        self.left = 10
        self.told: list[Any] = []
        self.wait = threading.Event()
        self.wait.set()

        @participant.step
        def take(call: Call, many: int) -> dict[str, int]:
            if many > self.left:
                raise LookupError("out of stock")
            self.left -= many
            assert self.wait.wait(20)
            if many == 5:
                raise OSError("the line broke")
            return {"left": self.left}

        @take.undo
        def give(call: Call, many: int, result: dict[str, int] | Unknown) -> None:
            self.told.append(result)
            self.left += many

        self.take = take.rejects(LookupError)

        @participant.step
        async def atake(call: Call, many: int) -> int:
            await asyncio.sleep(0)
            self.left -= many
            return self.left

        @atake.undo
        async def agive(call: Call, many: int, result: int | Unknown) -> None:
            self.left += many

        self.atake = atake


@pytest.fixture
def participant(tmp_path: Path) -> Any:
    made = Participant(tmp_path / "effects.db")
    yield made
    made.close()


def test_a_function_runs_once_per_key_and_its_undo_once(participant: Participant) -> None:
    """What a service does at most once per key is safe to ask for again."""
    stock = Stock(participant)
    assert stock.take(Call("k"), 3) == stock.take(Call("k"), 3) == {"left": 7}
    with pytest.raises(KeyReused, match="k was used with another request"):
        stock.take(Call("k"), 4)
    stock.take.take_back(Call("k", undo=True), 3)
    stock.take.take_back(Call("k", undo=True), 3)
    assert (stock.left, stock.told) == (10, [{"left": 7}])
    with pytest.raises(EffectUndone, match="k was taken back"):
        stock.take(Call("k"), 3)


def test_an_async_function_is_guarded_in_the_same_way(participant: Participant) -> None:
    """Most services are async."""

    async def main() -> None:
        stock = Stock(participant)
        assert await stock.atake(Call("k"), 3) == await stock.atake(Call("k"), 3) == 7
        await stock.atake.take_back(Call("k", undo=True), 3)
        await stock.atake.take_back(Call("k", undo=True), 3)
        await stock.atake.take_back(Call("early", undo=True), 3)
        with pytest.raises(EffectUndone):
            await stock.atake(Call("early"), 3)
        assert stock.left == 10

    asyncio.run(main())


def test_duplicates_at_once_run_once_and_an_undo_that_meets_them_waits(participant: Participant) -> None:
    """Two workers, a hedge and an undo can all be there in one moment."""
    stock = Stock(participant)
    stock.wait.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(stock.take, Call("k"), 3)
        until = time.monotonic() + 20
        while stock.left == 10:
            assert time.monotonic() < until
        for _ in range(3):
            with pytest.raises(EffectBusy) as told:
                stock.take(Call("k"), 3)
            assert told.value.retry_after == 1.0
        with pytest.raises(EffectBusy):
            stock.take.take_back(Call("k", undo=True), 3)
        stock.wait.set()
        assert first.result() == {"left": 7}
    assert stock.left == 7


def test_a_rejection_frees_the_key_and_any_other_error_leaves_it_in_doubt(participant: Participant) -> None:
    """Only what is named in rejects proves that nothing happened."""
    stock = Stock(participant)
    with pytest.raises(LookupError):
        stock.take(Call("k"), 11)
    stock.take.take_back(Call("k", undo=True), 11)
    assert stock.told == []
    with pytest.raises(OSError, match="the line broke"):
        stock.take(Call("k2"), 5)
    call = Call("k2", undo=True)
    stock.take.take_back(call, 5)
    assert call.doubtful
    assert isinstance(stock.told[0], Unknown)
    assert stock.left == 10


def test_stale_fences_are_refused_and_seen_ones_stay_seen(participant: Participant) -> None:
    """A frozen worker that thaws must not change what its successor decided."""
    stock = Stock(participant)
    stock.take(Call("k", Fence(1, 3)), 1)
    for fence in (Fence(1, 2), Fence(0, 9)):
        with pytest.raises(StaleFence, match=r"k has seen fence 1\.3"):
            stock.take.take_back(Call("k", fence, undo=True), 1)
    stock.take.take_back(Call("k", Fence(2, 1), undo=True), 1)
    assert stock.left == 10


def test_a_do_older_than_the_tombstones_is_refused_and_tombstones_go_in_time(tmp_path: Path) -> None:
    """What would refuse a late do is forgotten some day; from then on its age refuses it."""
    clock = VirtualClock()
    participant = Participant(tmp_path / "effects.db", retention="1h", skew="5m", clock=clock)
    stock = Stock(participant)
    sent = clock.wall()
    stock.take.take_back(Call("k", issued=sent, undo=True), 3)
    clock.advance(3000)
    assert participant.sweep() == 0
    with pytest.raises(EffectUndone):
        stock.take(Call("k", issued=sent), 3)
    clock.advance(700)
    assert participant.sweep() == 1
    with pytest.raises(EffectExpired, match="issued 3700 s ago"):
        stock.take(Call("k", issued=sent), 3)
    with pytest.raises(BadCall, match="from now"):
        stock.take(Call("k", issued=clock.wall() + 301), 3)
    assert stock.left == 10
    participant.close()


def test_in_the_services_own_postgresql_transaction_effect_and_key_commit_together(postgres: Any) -> None:
    """The same where several machines share the table, by the driver and by a SQLAlchemy session."""
    url = postgres.database()
    participant = Participant()
    with psycopg.connect(url) as shop:
        participant.make_table(shop)
        shop.execute("CREATE TABLE stock (left_ INTEGER)")
        shop.execute("INSERT INTO stock VALUES (10)")
        shop.commit()

        @participant.step
        def take(call: Call, many: int) -> int:
            statement = f"UPDATE stock SET left_ = left_ - {many}"
            call.tx.execute(text(statement) if isinstance(call.tx, Session) else statement)
            return many

        @take.undo
        def give(call: Call, many: int, result: int | Unknown) -> None:
            call.tx.execute(f"UPDATE stock SET left_ = left_ + {many}")

        def left() -> int:
            found = shop.execute("SELECT left_ FROM stock").fetchone()
            assert found is not None
            return int(found[0])

        take(Call("k", tx=shop), 3)
        with psycopg.connect(url) as other, pytest.raises(EffectBusy):
            take(Call("k", tx=other), 3)
        shop.rollback()
        assert left() == 10, "rolled back: neither effect nor key is there"
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        for _ in range(2):
            with Session(engine) as session:
                assert take(Call("k", tx=session), 3) == 3
                session.commit()
        engine.dispose()
        shop.rollback()
        assert left() == 7
        give_back = Call("k", undo=True, tx=shop)
        take.take_back(give_back, 3)
        shop.commit()
        assert left() == 10
        with pytest.raises(EffectUndone):
            take(Call("k", tx=shop), 3)
        shop.rollback()
    with pytest.raises(TypeError, match="not async"):
        take(Call("k", tx=object.__new__(psycopg.AsyncConnection)), 3)
    postgres.drop(url)


def test_in_the_services_own_sqlite_transaction_effect_and_key_commit_together(tmp_path: Path) -> None:
    """The best guard: either both are there or none, whatever dies in between."""
    participant = Participant()
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    participant.make_table(connection)
    connection.execute("CREATE TABLE stock (left INTEGER)")
    connection.execute("INSERT INTO stock VALUES (10)")

    @participant.step
    def take(call: Call, many: int) -> int:
        call.tx.execute("UPDATE stock SET left = left - ?", (many,))
        if many > 5:
            raise LookupError("too many")
        return many

    @take.undo
    def give(call: Call, many: int, result: int | Unknown) -> None:
        call.tx.execute("UPDATE stock SET left = left + ?", (many,))

    def left() -> int:
        return int(connection.execute("SELECT left FROM stock").fetchone()[0])

    assert take(Call("k", tx=connection), 3) == 3
    connection.rollback()
    assert left() == 10, "rolled back: neither effect nor key is there"
    assert take(Call("k", tx=connection), 3) == 3
    connection.commit()
    assert take(Call("k", tx=connection), 3) == 3
    connection.commit()
    assert left() == 7
    with pytest.raises(LookupError):
        take(Call("k2", tx=connection), 6)
    connection.commit()
    assert left() == 7, "the effect of a failed attempt is gone although the caller committed"
    take.take_back(Call("k", undo=True, tx=connection), 3)
    take.take_back(Call("k2", undo=True, tx=connection), 6)
    connection.commit()
    assert left() == 10
    other = sqlite3.connect(tmp_path / "shop.db", isolation_level=None, timeout=0.05)
    take(Call("k3", tx=connection), 1)
    with pytest.raises(EffectBusy):
        take(Call("k3", tx=other), 1)
    connection.commit()
    with pytest.raises(BadCall, match="has no file"):
        take(Call("k"), 3)
    with pytest.raises(TypeError, match="of sqlite3, psycopg \\(not async\\) or SQLAlchemy"):
        take(Call("k", tx=object()), 3)
    connection.close()
    other.close()


class Shop(Saga[int, str]):
    """Takes stock, then is rejected."""

    name = "shop"

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.headers: list[dict[str, str]] = []

    @step()
    def reserve(self, ctx: Context, many: int) -> dict[str, int]:
        self.headers.append(ctx.headers)
        return self.stock.take(Call.of(ctx), many)

    @reserve.undo
    def release(self, ctx: Context, many: int, result: dict[str, int] | Unknown) -> None:
        self.headers.append(ctx.headers)
        self.stock.take.take_back(Call.of(ctx), many)

    @step(after=reserve, pivot=True, rejects=LookupError)
    def pay(self, ctx: Context, many: int) -> str:
        raise LookupError("no money")


def test_a_step_sends_its_key_its_fence_and_its_moment_and_an_undo_its_marker(tmp_path: Path, participant: Participant) -> None:
    """Both ends must mean the same: the undo names the key of what it takes back."""
    saga = Shop(Stock(participant))

    async def main() -> None:
        async with Sagas(f"sqlite:///{tmp_path}/sagas.db", [saga]) as sagas:
            handle = await sagas.start(Shop, 3, id="order-1")
            with pytest.raises(SagaCompensated):
                await handle.result(timeout=20)

    asyncio.run(main())
    assert saga.stock.left == 10
    do, undo = saga.headers
    assert do["Idempotency-Key"] == undo["Idempotency-Key"]
    assert (do["Seawall-Fence"], undo["Seawall-Undo"], "Seawall-Undo" in do) == ("1.1", "1", False)
    assert abs(float(do["Seawall-Issued"]) - time.time()) < 60
    read = Call.read({name.lower(): value for name, value in undo.items()})
    assert read is not None
    assert (read.key, read.fence, read.undo) == (do["Idempotency-Key"], Fence(1, 1), True)


@pytest.mark.parametrize(
    "bad", [{"retention": 100.0}, {"retention": 0}, {"skew": -1}, {"retry_after": 0}, {"largest": 3}], ids=lambda bad: str(bad)
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    """A retention below the clocks' error would refuse everything, or nothing."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        Participant(**bad)
