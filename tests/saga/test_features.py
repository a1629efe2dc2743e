"""What a definition can say, each thing run for real against both journals."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seawall as sw
from seawall.saga import (
    NOT_DONE,
    Context,
    Done,
    NotDone,
    Saga,
    SagaCompensated,
    Sagas,
    SagaStuck,
    Unknown,
    Word,
    sleep,
    step,
    store,
    subsaga,
    wait_signal,
)
from seawall.saga.operate import NotAllowed
from seawall.saga.port import Verb

Conduct = Callable[..., Sagas]


class No(Exception):
    """Nothing happened."""


FAST = sw.Backoff(base=0.001, cap=0.01)


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for it, with an end."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.01)


async def status_of(handle: Any, *wanted: str) -> None:
    """Wait until the saga is in one of these states."""
    end = time.monotonic() + 20
    while (now := await handle.status()) not in wanted:
        assert time.monotonic() < end, f"it is {now}"
        await asyncio.sleep(0.02)


def test_branches_run_at_once_and_join(conduct: Conduct) -> None:
    """A graph is not a list: what does not wait for each other runs together."""

    class Trip(Saga[str, str]):
        name = "trip"
        together = asyncio.Event()

        @step(undo="none")
        async def car(self, ctx: Context, where: str) -> str:
            await asyncio.wait_for(self.together.wait(), 10)
            return "car"

        @step(undo="none")
        async def hotel(self, ctx: Context, where: str) -> str:
            self.together.set()
            return "hotel"

        @step(after=(car, hotel), undo="none")
        async def book(self, ctx: Context, where: str) -> str:
            return f"{ctx.result(self.car)} and {ctx.result(self.hotel)} in {where}"

    async def main() -> None:
        async with conduct(Trip()) as sagas:
            assert await (await sagas.start(Trip, "Oslo")).result(20) == "car and hotel in Oslo"

    asyncio.run(main())


def test_a_failing_branch_waits_for_the_other_and_both_are_taken_back(conduct: Conduct) -> None:
    """A branch that still runs may take effect; going back before it ends would leave that behind."""
    told: list[str] = []

    class Trip(Saga[None, None]):
        name = "trip"

        @step()
        async def car(self, ctx: Context, _: None) -> str:
            await asyncio.sleep(0.1)
            told.append("car")
            return "car"

        @car.undo
        async def no_car(self, ctx: Context, _: None, car: str | Unknown) -> None:
            told.append(f"no {car}")

        @step()
        async def hotel(self, ctx: Context, _: None) -> None:
            raise RuntimeError("full")

        @hotel.undo
        async def no_hotel(self, ctx: Context, _: None, hotel: Unknown | None) -> None:
            told.append(f"no hotel {hotel!r}")

        @step(after=(car, hotel), undo="none")
        async def book(self, ctx: Context, _: None) -> None:
            told.append("never")

    async def main() -> None:
        async with conduct(Trip()) as sagas:
            with pytest.raises(SagaCompensated, match="hotel: RuntimeError: full"):
                await (await sagas.start(Trip, None)).result(20)

    asyncio.run(main())
    assert sorted(told) == ["car", "no car", "no hotel Unknown('RuntimeError: full')"]


def test_retry_repeats_with_one_key_and_a_late_rejection_proves_nothing(conduct: Conduct) -> None:
    """A first attempt that timed out may have happened, so a rejection after it is unknown, and the undo runs."""
    keys: list[str] = []
    undone: list[Any] = []

    class Pay(Saga[int, None]):
        name = "pay"

        @step(retry=sw.Retry(3, backoff=FAST), timeout=0.05, rejects=No)
        async def charge(self, ctx: Context, fails: int) -> None:
            keys.append(ctx.key)
            if len(keys) == 1:
                await asyncio.sleep(5)
            raise No("declined")

        @charge.undo
        async def refund(self, ctx: Context, fails: int, paid: Unknown | None) -> None:
            undone.append((ctx.undoes, paid))

    async def main() -> None:
        async with conduct(Pay()) as sagas:
            with pytest.raises(SagaCompensated, match="charge: No: declined") as told:
                await (await sagas.start(Pay, 2)).result(20)
            assert told.value.status == "compensated"

    asyncio.run(main())
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert undone[0][0] == keys[0]
    assert isinstance(undone[0][1], Unknown)


def test_behind_the_pivot_a_step_is_repeated_until_it_succeeds_and_tells_on_its_way(conduct: Conduct) -> None:
    """After the point of no return the only way is forward, and a human hears of it."""
    events: list[str] = []

    class Ship(Saga[None, str]):
        name = "ship"
        tries = 0

        @step(pivot=True, rejects=No, retry=sw.Retry(2, backoff=FAST))
        async def pay(self, ctx: Context, _: None) -> None:
            self.tries += 1
            if self.tries < 4:
                raise OSError("who knows")  # not undoable: it is asked again, with its key, until it is known

        @step(after=pay, retriable=True, retry=sw.Retry(backoff=FAST), alert_after=3)
        def send(self, ctx: Context, _: None) -> str:
            self.tries += 1
            if ctx.attempt < 5:
                raise OSError("not yet")
            return f"after {ctx.attempt}"

    async def main() -> None:
        async with conduct(Ship()) as sagas:
            sagas.subscribe(lambda event: events.append(event.kind))
            handle = await sagas.start(Ship, None)
            with pytest.raises(SagaStuck, match="send has failed 3 times and goes on trying: OSError: not yet"):
                await handle.result(20)
            await status_of(handle, "completed")
            assert await handle.result(1) == "after 5"

    asyncio.run(main())
    assert events.count("saga.alert") == 1


def test_at_most_once_is_never_repeated_after_a_crash_but_by_a_humans_word(conduct: Conduct) -> None:
    """An effect that must not happen twice: the saga is stuck, says so, and a human decides."""
    calls: list[int] = []

    class Once(Saga[None, str]):
        name = "once"

        @step(at_most_once=True)
        async def launch(self, ctx: Context, _: None) -> str:
            calls.append(1)
            if len(calls) == 1:
                await asyncio.sleep(60)
            return "up"

        @launch.undo
        async def abort(self, ctx: Context, _: None, up: str | Unknown) -> None: ...

    async def main() -> None:
        sagas = conduct(Once())
        await sagas.__aenter__()
        await sagas.start(Once, None, id="rocket")
        await until(lambda: calls)
        sagas.abandon()
        sagas.journal.leave()
        async with conduct(Once()) as others:
            handle = await others.handle("rocket")
            with pytest.raises(SagaStuck, match="at_most_once: launch may have been started"):
                await handle.result(20)
            assert len(calls) == 1
            with pytest.raises(NotAllowed, match="the result must be JSON"):
                await others.operate("rocket", Word("resolve", "ada", "saw it fly", "launch", "{"))
            await others.operate("rocket", Word("resolve", "ada", "saw it fly", "launch", '"seen"'))
            assert await handle.result(20) == "seen"
            audit = await others.read(lambda tx: tx.execute("SELECT verb, step, actor, reason, detail FROM saga_operator"))
            assert audit == [("resolve", "launch", "ada", "saw it fly", '"seen"')]
        sagas._close()

    asyncio.run(main())
    assert len(calls) == 1


@pytest.mark.parametrize("answer", [Done("found"), NotDone(), Unknown("?")])
def test_a_probe_is_asked_before_a_step_in_doubt_is_repeated(conduct: Conduct, answer: Any) -> None:
    """Who can be asked need not be guessed about."""
    calls: list[bool] = []

    class Ask(Saga[None, str]):
        name = "ask"

        @step()
        async def work(self, ctx: Context, _: None) -> str:
            calls.append(ctx.doubtful)
            if len(calls) == 1:
                await asyncio.sleep(60)
            return "made"

        @work.undo
        async def unwork(self, ctx: Context, _: None, made: str | Unknown) -> None: ...

        @work.probe
        async def worked(self, ctx: Context, _: None) -> Any:
            return answer

    async def main() -> None:
        sagas = conduct(Ask())
        await sagas.__aenter__()
        await sagas.start(Ask, None, id="a")
        await until(lambda: calls)
        sagas.abandon()
        sagas.journal.leave()
        async with conduct(Ask()) as others:
            wanted = "found" if isinstance(answer, Done) else "made"
            assert await (await others.handle("a")).result(20) == wanted
        sagas._close()

    asyncio.run(main())
    assert len(calls) == (1 if isinstance(answer, Done) else 2)


def test_a_tx_step_commits_its_rows_its_record_and_its_events_together_or_nothing(place: Any, conduct: Conduct) -> None:
    """Where business data and journal share a database, a step is exactly once, with no key at all."""
    place.rows("CREATE TABLE account (name TEXT PRIMARY KEY, cents INTEGER)")
    place.rows("INSERT INTO account VALUES ('ada', 100)")

    class Debit(Saga[int, int]):
        name = "debit"
        tries = 0

        @step(tx=True, rejects=No, retry=sw.Retry(3, on=OSError, backoff=FAST))
        def take(self, ctx: Context, cents: int) -> int:
            self.tries += 1
            ctx.tx.execute("UPDATE account SET cents=cents-? WHERE name='ada'", (cents,))
            ctx.tx.publish("accounts", "ada", "Debited", {"cents": cents})
            if self.tries == 1:
                raise OSError("once more")
            left = ctx.tx.execute("SELECT cents FROM account")[0][0]
            if left < 0:
                raise No("not enough")
            return int(left)

    async def main() -> None:
        async with conduct(Debit()) as sagas:
            assert await (await sagas.start(Debit, 30)).result(20) == 70
            with pytest.raises(SagaCompensated, match="take: No: not enough") as told:
                await (await sagas.start(Debit, 500)).result(20)
            assert told.value.status == "failed"

    asyncio.run(main())
    assert place.rows("SELECT cents FROM account") == [(70,)]
    assert place.rows("SELECT aggregatetype, aggregateid, type, payload FROM saga_outbox") == [
        ("accounts", "ada", "Debited", '{"cents": 30}')
    ]


def test_a_tx_step_that_holds_the_database_too_long_is_cut_off(place: Any, conduct: Conduct) -> None:
    """One slow step must not hold up everybody's journal, and what it wrote is gone."""
    place.rows("CREATE TABLE note (text TEXT)")

    class Slow(Saga[None, None]):
        name = "slow"

        @step(tx=True, tx_limit=0.3)
        def work(self, ctx: Context, _: None) -> None:
            ctx.tx.execute("INSERT INTO note VALUES ('x')")
            until = time.monotonic() + 20
            while time.monotonic() < until:
                ctx.tx.execute(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100000) SELECT count(*) FROM n"
                )

    async def main() -> None:
        async with conduct(Slow()) as sagas:
            with pytest.raises(SagaCompensated, match=r"interrupt|canceling|longer than its"):
                await (await sagas.start(Slow, None)).result(15)

    asyncio.run(main())
    assert place.rows("SELECT * FROM note") == []


def test_a_start_in_the_callers_transaction_begins_when_it_commits_and_never_when_it_does_not(
    place: Any, conduct: Conduct, tmp_path: Path
) -> None:
    """The order row and its saga are one fact."""

    class Tiny(Saga[int, int]):
        name = "tiny"

        @step(undo="none")
        async def same(self, ctx: Context, n: int) -> int:
            return n

    async def main() -> None:
        async with conduct(Tiny()) as sagas:
            place.rows("CREATE TABLE orders (id TEXT)")
            db = place.connect()
            for id_, keep in (("a", True), ("b", False)):
                db.execute(f"INSERT INTO orders VALUES ('{id_}')")
                handle = await sagas.start(Tiny, 5, id=id_, tx=db)
                db.commit() if keep else db.rollback()
            assert await (await sagas.handle("a")).result(20) == 5
            with pytest.raises(sw.SeawallError, match="there is no saga"):
                await handle.result(1)
            assert not (await sagas.start(Tiny, 5, id="a", tx=db)).new
            db.close()
            assert place.rows("SELECT id FROM orders") == [("a",)]
            other = sqlite3.connect(tmp_path / "other.db")
            with pytest.raises(TypeError, match="tx must be a"):
                await sagas.start(Tiny, 5, tx=other)
            other.close()

    asyncio.run(main())


def test_a_saga_starts_in_the_transaction_of_a_sqlalchemy_session(place: Any, conduct: Conduct) -> None:
    """That is what most services hold in their hands, sync or async."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.orm import Session

    url = place.url.replace("postgresql:", "postgresql+psycopg:")

    async def main() -> None:
        async with conduct(Approved()) as sagas:
            place.rows("CREATE TABLE orders (id TEXT)")
            engine = create_engine(url)
            for id_, keep in (("a", True), ("b", False)):
                with Session(engine) as session:
                    session.execute(text(f"INSERT INTO orders VALUES ('{id_}')"))
                    await sagas.start(Approved, "x", id=id_, tx=session)
                    session.commit() if keep else session.rollback()
            with engine.begin() as connection:
                await sagas.start(Approved, "x", id="c", tx=connection)
            engine.dispose()
            if place.kind == "postgres":
                later = create_async_engine(url)
                async with AsyncSession(later) as asession, asession.begin():
                    await asession.execute(text("INSERT INTO orders VALUES ('d')"))
                    await sagas.start(Approved, "x", id="d", tx=asession)
                async with later.begin() as connected:
                    await sagas.start(Approved, "x", id="e", tx=connected)
                await later.dispose()
            begun = {"a", "c", "d", "e"} if place.kind == "postgres" else {"a", "c"}
            assert {key for (key,) in place.rows("SELECT user_key FROM saga")} == begun
            assert {id for (id,) in place.rows("SELECT id FROM orders")} == begun - {"c", "e"}

    asyncio.run(main())


def test_a_start_takes_the_callers_connection_as_it_is(place: Any, conduct: Conduct) -> None:
    """Asynchronous drivers and row factories of the caller's own taste are everyday things."""
    import psycopg
    from psycopg.rows import dict_row

    async def main() -> None:
        async with conduct(Approved()) as sagas:
            db = place.connect()
            taste = (lambda cursor, row: {"n": row}) if place.kind == "sqlite" else dict_row
            db.row_factory = taste
            for _ in range(2):
                await sagas.start(Approved, "x", id="a", tx=db)
                db.commit()
            db.close()
            await (await sagas.handle("a")).signal("approved", "yes")
            assert await (await sagas.handle("a")).result(20) == "x: yes"
            if place.kind == "sqlite":
                return
            async with await psycopg.AsyncConnection.connect(place.url, row_factory=dict_row) as later:
                assert (await sagas.start(Approved, "x", id="b", tx=later)).new
                assert not (await sagas.start(Approved, "x", id="b", tx=later)).new
                with pytest.raises(sw.SeawallError):
                    await sagas.handle("b")
            await (await sagas.handle("b")).signal("approved", "yes")
            assert await (await sagas.handle("b")).result(20) == "x: yes"

    asyncio.run(main())


class Locking(Saga[str, str]):
    """Holds a lock from its first step to its end."""

    name = "locking"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.inside = 0
        self.most = 0

    @step(locks=lambda sku: [sku], undo="none")
    async def hold(self, ctx: Context, sku: str) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)

    @step(after=hold, undo="none")
    async def work(self, ctx: Context, sku: str) -> str:
        while not self.go.is_set():
            await asyncio.sleep(0.01)
        self.inside -= 1
        return sku


def test_a_semantic_lock_lets_one_saga_at_a_time_and_wakes_the_next(conduct: Conduct) -> None:
    """What one saga has half changed no other one may build on (Richardson's semantic lock), and nobody is forgotten in the
    queue."""

    async def main() -> None:
        saga = Locking()
        async with conduct(saga) as sagas:
            handles = [await sagas.start(Locking, "a") for _ in range(5)]
            other = await sagas.start(Locking, "b")
            await until(lambda: saga.inside == 2)
            await asyncio.sleep(0.2)
            assert saga.inside == 2
            saga.go.set()
            assert [await handle.result(20) for handle in (*handles, other)] == ["a"] * 5 + ["b"]
            assert saga.most == 2
            assert await sagas.read(lambda tx: tx.execute("SELECT * FROM saga_lock")) == []

    asyncio.run(main())


def test_a_lock_can_fail_at_once_and_a_deadlock_ends_with_the_youngest_going_back(conduct: Conduct) -> None:
    """Two sagas that wait for each other would wait for ever."""

    class Quick(Saga[str, None]):
        name = "quick"

        @step(locks=lambda sku: [sku], on_lock="fail", undo="none")
        async def hold(self, ctx: Context, sku: str) -> None: ...

    class Both(Saga[list[str], str]):
        name = "both"
        met = asyncio.Barrier(2)

        @step(locks=lambda skus: skus[:1], undo="none")
        async def first(self, ctx: Context, skus: list[str]) -> None:
            await self.met.wait()

        @step(after=first, locks=lambda skus: skus[1:], undo="none")
        async def second(self, ctx: Context, skus: list[str]) -> str:
            return "both"

    async def main() -> None:
        async with conduct(Locking(), Both(), Quick()) as sagas:
            held = await sagas.start(Locking, "x", id="holder")
            await asyncio.sleep(0.1)
            with pytest.raises(SagaCompensated, match="LockHeld: x is held by another saga"):
                await (await sagas.start(Quick, "x")).result(20)
            await held.cancel("enough")
            old = await sagas.start(Both, ["a", "b"])
            young = await sagas.start(Both, ["b", "a"])
            with pytest.raises(SagaCompensated, match="cancelled by seawall: deadlock"):
                await young.result(20)
            assert await old.result(20) == "both"

    asyncio.run(main())


def test_a_version_that_changed_meanwhile_is_a_rejection(conduct: Conduct) -> None:
    """Reread value: what was read in an earlier step must still be so when it is acted on."""

    class Edit(Saga[int, str]):
        name = "edit"

        @step(undo="none")
        async def read(self, ctx: Context, now: int) -> int:
            return 7

        @step(after=read, undo="none", expect_version=lambda self, ctx, now: (ctx.result(self.read), now))
        async def write(self, ctx: Context, now: int) -> str:
            return "written"

    async def main() -> None:
        async with conduct(Edit()) as sagas:
            assert await (await sagas.start(Edit, 7)).result(20) == "written"
            with pytest.raises(SagaCompensated, match="VersionChanged: expected 7, found 8"):
                await (await sagas.start(Edit, 8)).result(20)

    asyncio.run(main())


def test_a_failure_returns_to_the_savepoint_and_tries_again_from_there(conduct: Conduct) -> None:
    """Forward recovery: the dear part is done once, the doubtful part as often as it takes, each time under new keys."""
    calls: list[str] = []

    class Work(Saga[int, None]):
        name = "work"

        @step(savepoint=True)
        async def dear(self, ctx: Context, good: int) -> None:
            calls.append("dear")

        @dear.undo
        async def undear(self, ctx: Context, good: int, _: Unknown | None) -> None:
            calls.append("undear")

        @step(after=dear)
        async def cheap(self, ctx: Context, good: int) -> None:
            calls.append(f"cheap {ctx.key[-1]}")

        @cheap.undo
        async def uncheap(self, ctx: Context, good: int, _: Unknown | None) -> None:
            calls.append("uncheap")

        @step(after=cheap, rejects=No, undo="none")
        async def last(self, ctx: Context, good: int) -> None:
            if int(ctx.key[-1]) < good:
                raise No

    async def main() -> None:
        async with conduct(Work()) as sagas:
            await (await sagas.start(Work, 2)).result(20)
            assert calls == ["dear", "cheap 0", "uncheap", "cheap 1", "uncheap", "cheap 2"]
            calls.clear()
            with pytest.raises(SagaCompensated):
                await (await sagas.start(Work, 99)).result(20)
            assert calls.count("cheap 3") == 1
            assert calls[-2:] == ["uncheap", "undear"]

    asyncio.run(main())


class Inner(Saga[str, int]):
    """A saga inside another one."""

    name = "inner"
    undone: list[str] = []

    @step()
    async def a(self, ctx: Context, text: str) -> int:
        return len(text)

    @a.undo
    async def un_a(self, ctx: Context, text: str, n: int | Unknown) -> None:
        self.undone.append(f"{text} {n}")


def test_an_inner_saga_is_one_step_that_completes_or_is_taken_back_whole(conduct: Conduct) -> None:
    """Sagas of sagas: the outer one's failure reaches into an inner one that has long completed."""
    Inner.undone.clear()

    class Outer(Saga[str, int]):
        name = "outer"
        inner = subsaga(Inner, lambda self, ctx, text: text * 2)

        @step(after=inner, rejects=No, undo="none")
        async def then(self, ctx: Context, text: str) -> int:
            if text == "bad":
                raise No
            return ctx.result(self.inner) + 1

    async def main() -> None:
        async with conduct(Outer(), Inner()) as sagas:
            assert await (await sagas.start(Outer, "good")).result(20) == 9
            with pytest.raises(SagaCompensated, match="then: No"):
                await (await sagas.start(Outer, "bad")).result(20)

    asyncio.run(main())
    assert Inner.undone == ["badbad 6"]


class Approved(Saga[str, str]):
    """Waits for a word."""

    name = "approved"

    @step(undo="none")
    async def ask(self, ctx: Context, text: str) -> None: ...

    word = wait_signal("approved", str, timeout=30, after=ask)

    @step(after=word, undo="none")
    async def act(self, ctx: Context, text: str) -> str:
        return f"{text}: {ctx.result(self.word)}"


def test_a_signal_is_kept_until_it_is_asked_for_and_counts_once(conduct: Conduct) -> None:
    """A signal can come early, twice, and while nobody runs the saga."""

    async def main() -> None:
        async with conduct(Approved()) as sagas:
            handle = await sagas.start(Approved, "a", id="a")
            await status_of(handle, "waiting")
            await until(lambda: sagas.snapshot().running == 0)
            assert await handle.signal("approved", "yes", id="1")
            assert not await handle.signal("approved", "no", id="1")
            assert await handle.result(20) == "a: yes"
        async with conduct(Approved(), worker=False) as asks:
            late = await asks.start(Approved, "b", id="b")
            assert await late.signal("approved", "early")
        async with conduct(Approved()) as sagas:
            assert await (await sagas.handle("b")).result(20) == "b: early"
            wrong = await sagas.start(Approved, "c")
            await wrong.signal("approved", 5)
            with pytest.raises(SagaCompensated, match="word: NotSerialisable"):
                await wrong.result(20)

    asyncio.run(main())


def test_sleeps_signals_and_deadlines_end_in_time_also_over_a_restart(conduct: Conduct) -> None:
    """A wait belongs to the journal, not to a process."""

    class Nap(Saga[str, None]):
        name = "nap"
        nap = sleep(1.2)

    class Late(Saga[str, None]):
        name = "late"
        word = wait_signal("never", timeout=0.3)

    class Due(Saga[str, None]):
        name = "due"
        deadline = 0.5
        word = wait_signal("never")

    async def main() -> None:
        began = time.time()
        async with conduct(Nap(), Late(), Due()) as sagas:
            for saga in (Nap, Late, Due):
                await sagas.start(saga, "x", id=saga.name)
        async with conduct(Nap(), Late(), Due()) as sagas:
            with pytest.raises(SagaCompensated, match="SignalTimeout: never did not come in time"):
                await (await sagas.handle("late")).result(20)
            with pytest.raises(SagaCompensated, match="the saga's deadline passed"):
                await (await sagas.handle("due")).result(20)
            await (await sagas.handle("nap")).result(20)
        assert time.time() - began >= 1.2

    asyncio.run(main())


def test_an_open_circuit_parks_the_saga_and_burns_no_attempt(conduct: Conduct) -> None:
    """What was refused before it was sent is no failure of the step: the saga waits outside, and goes on when the circuit
    closes."""
    breaker = sw.CircuitBreaker(consecutive_failures=1, open_for=1.5)
    attempts: list[int] = []

    class Call(Saga[None, str]):
        name = "call"

        @step(through=breaker, undo="none")
        async def call(self, ctx: Context, _: None) -> str:
            attempts.append(ctx.attempt)
            return "called"

    async def main() -> None:
        async with conduct(Call()) as sagas:
            breaker.try_call(lambda: 1 / 0 if False else (_ for _ in ()).throw(ConnectionError()))
            assert breaker.state == "open"
            handle = await sagas.start(Call, None)
            await status_of(handle, "waiting")
            await until(lambda: sagas.snapshot().running == 0)
            assert await handle.result(20) == "called"

    asyncio.run(main())
    assert attempts == [1]


def test_a_failing_undo_goes_on_for_ever_tells_and_is_never_called_compensated(conduct: Conduct) -> None:
    """Nobody's money is lost silently: the saga is stuck and seen, still tries, and a human can name another undo."""
    healed = False
    by: list[str] = []

    class Pay(Saga[None, None]):
        name = "pay"

        @step()
        async def charge(self, ctx: Context, _: None) -> None: ...

        @charge.undo(retry=sw.Retry(backoff=FAST), alert_after=4)
        async def refund(self, ctx: Context, _: None, paid: Unknown | None) -> None:
            if not healed:
                raise OSError("bank is closed")
            by.append("refund")

        @charge.alternate
        async def cheque(self, ctx: Context, _: None, paid: Unknown | None) -> None:
            by.append("cheque")

        @step(after=charge, rejects=No, undo="none")
        async def then(self, ctx: Context, _: None) -> None:
            raise No

    async def main() -> None:
        nonlocal healed
        async with conduct(Pay()) as sagas:
            for id_ in ("healed", "alternate", "skipped"):
                with pytest.raises(
                    SagaStuck, match=r"charge\.undo has failed 4 times and goes on trying: OSError: bank is closed"
                ):
                    await (await sagas.start(Pay, None, id=id_)).result(20)
            await sagas.operate("skipped", Word("skip", "ada", "paid by hand", "charge"))
            await status_of(await sagas.handle("skipped"), "compensated_partially")
            await sagas.operate("alternate", Word("alternate", "ada", "bank is gone", "charge", "cheque"))
            await status_of(await sagas.handle("alternate"), "compensated")
            assert by == ["cheque"]
            healed = True
            await status_of(await sagas.handle("healed"), "compensated")
            assert by == ["cheque", "refund"]

    asyncio.run(main())


def test_a_human_can_turn_cancel_and_retry_but_not_against_the_rules(conduct: Conduct) -> None:
    """Each word is checked against the saga's state, and leaves who said it and why."""
    gate = asyncio.Event()

    class Buy(Saga[None, str]):
        name = "buy"
        good = False

        @step()
        async def first(self, ctx: Context, _: None) -> None: ...

        @first.undo
        async def unfirst(self, ctx: Context, _: None, done: Unknown | None) -> None: ...

        @step(after=first, pivot=True, rejects=No)
        async def pay(self, ctx: Context, _: None) -> None:
            if not self.good:
                raise No("card")

        word = wait_signal("go", after=pay)

        @step(after=word, retriable=True)
        async def send(self, ctx: Context, _: None) -> str:
            await gate.wait()
            return "sent"

    async def main() -> None:
        saga = Buy()
        async with conduct(saga) as sagas:
            handle = await sagas.start(Buy, None, id="a")
            with pytest.raises(SagaCompensated):
                await handle.result(20)
            saga.good = True
            with pytest.raises(NotAllowed, match="is compensated; nothing more can be done"):
                await sagas.operate("a", Word("retry", "ada", "why not"))
            await sagas.operate("a", Word("forward", "ada", "the card works now"))
            await status_of(handle, "waiting")
            with pytest.raises(NotAllowed, match="has passed its pivot pay"):
                await handle.cancel("changed my mind")
            with pytest.raises(NotAllowed, match="no step 'nothing'"):
                await sagas.operate("a", Word("skip", "ada", "x", "nothing"))
            with pytest.raises(NotAllowed, match="does not wait for anything now"):
                await sagas.operate("a", Word("skip", "ada", "x", "first"))
            with pytest.raises(NotAllowed, match="reason must be text"):
                Word("skip", "ada", " ")
            await handle.signal("go")
            gate.set()
            assert await handle.result(20) == "sent"

    asyncio.run(main())


def test_a_cancelled_saga_goes_back_even_in_the_middle_of_a_step(conduct: Conduct) -> None:
    """Cancel and the step's success are decided by one row: the late success is refused, and the step counts as possibly done."""
    inside = asyncio.Event()
    undone: list[Any] = []

    class Long(Saga[None, None]):
        name = "long"

        @step()
        async def work(self, ctx: Context, _: None) -> None:
            inside.set()
            await asyncio.sleep(60)

        @work.undo
        async def unwork(self, ctx: Context, _: None, done: Unknown | None) -> None:
            undone.append(done)

    async def main() -> None:
        async with conduct(Long()) as sagas:
            handle = await sagas.start(Long, None)
            await asyncio.wait_for(inside.wait(), 20)
            await handle.cancel("no longer wanted", actor="ada")
            with pytest.raises(SagaCompensated, match="cancelled by ada: no longer wanted"):
                await handle.result(20)

    asyncio.run(main())
    assert isinstance(undone[0], Unknown)


def test_one_bad_saga_does_not_stop_the_others(conduct: Conduct) -> None:
    """A journal with one unreadable input still serves everybody else (omicron#5947)."""

    async def main() -> None:
        async with conduct(Approved(), worker=False) as asks:
            for id_ in "abc":
                await (await asks.start(Approved, id_, id=id_)).signal("approved", "yes")
            spoil = "UPDATE saga SET input='{' WHERE user_key='b'"
            await asks.committer.send(Verb(lambda tx: tx.execute(spoil)))
        async with conduct(Approved()) as sagas:
            assert await (await sagas.handle("a")).result(20) == "a: yes"
            assert await (await sagas.handle("c")).result(20) == "c: yes"
            with pytest.raises(SagaStuck, match="definition_mismatch: the input of approved b"):
                await (await sagas.handle("b")).result(20)

    asyncio.run(main())


def test_an_error_whose_words_no_database_takes_is_written_all_the_same(conduct: Conduct) -> None:
    """A driver's message can hold anything; it must not keep its saga from being written down."""

    class Odd(Saga[None, None]):
        name = "odd"

        @step(rejects=No, undo="none")
        async def work(self, ctx: Context, _: None) -> None:
            raise No("a\0b\ud800c")

    async def main() -> None:
        async with conduct(Odd()) as sagas:
            with pytest.raises(SagaCompensated, match=r"work: No: a\ufffdb.c"):
                await (await sagas.start(Odd, None)).result(10)
            with pytest.raises(ValueError, match="printable"):
                await sagas.start(Odd, None, id="a\0")

    asyncio.run(main())


def test_three_takeovers_without_a_record_are_a_crash_loop(conduct: Conduct) -> None:
    """A saga that kills its workers must not kill all of them, one after the other, for ever."""

    async def main() -> None:
        async with conduct(Approved(), worker=False) as asks:
            await asks.start(Approved, "a", id="a")
            hashes = [Approved.definition.hash]
            for number in range(4):
                asks.journal.register(f"victim-{number}", 10, hashes)
                rows = await asks.committer.send(Verb(lambda tx, n=number: store.claim(tx, f"victim-{n}", hashes, 5)))
                assert [row.takeovers for row in rows] == [number]
                asks.journal.leave()
            asks.journal.register("last", 10, hashes)
            assert await asks.committer.send(Verb(lambda tx: store.claim(tx, "last", hashes, 5))) == []
            asks.journal.leave()
            with pytest.raises(SagaStuck, match="crash_loop: 4 workers in a row died over it"):
                await (await asks.handle("a")).result(5)

    asyncio.run(main())
    assert NOT_DONE is not None
