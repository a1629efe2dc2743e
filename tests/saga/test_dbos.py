"""What is DBOS's own: histories that are told again, clean and unclean restarts, starts from elsewhere, and the command line."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from engine_sagas import Approval, OnceOnly, Plan, Stubborn, Trip
from ledger import Ledger

from seawall.saga import Context, NotAllowed, NotOffered, Saga, SagaCompensated, Sagas, SagaStuck, Unknown, Word, step
from seawall.saga.engines.waves import retell
from seawall.saga.errors import JournalMissing, SagaError

pytest.importorskip("dbos", reason="the engine is an extra")
QUICK: dict[str, Any] = {"poll": 0.05, "lease": 2.0, "grace": 2.0}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """DBOS's tables in a file of its own."""
    return f"dbos+sqlite:///{tmp_path}/dbos.db"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A participant."""
    return Ledger(tmp_path / "ledger.db")


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> None:
    """Wait for something that comes, within generous bounds."""
    end = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.02)


class Needy(Saga[int, int]):
    """Needs the database of its rows."""

    name = "needy"

    @step(tx=True, undo="none")
    def one(self, ctx: Context, n: int) -> int:
        """Nothing."""
        return n


class Slow(Saga[int, int]):
    """Two steps, the first as long as the test says; counts what begins."""

    name = "slow"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began: list[str] = []
        self.undone: list[str] = []
        self.threads: set[int] = set()

    @step(at_most_once=True)
    async def first(self, ctx: Context, n: int) -> int:
        """Takes its time."""
        self.threads.add(threading.get_ident())
        self.began.append(ctx.step)
        await asyncio.sleep(self.seconds)
        return n + 1

    @first.undo
    async def back(self, ctx: Context, n: int, result: int | Unknown) -> None:
        """Takes it back."""
        self.undone.append(ctx.step)

    @step(after=first, undo="none", at_most_once=True)
    async def second(self, ctx: Context, n: int) -> int:
        """Adds one more."""
        self.threads.add(threading.get_ident())
        self.began.append(ctx.step)
        return ctx.result(self.first) + 1


def test_what_it_lacks_is_refused_by_name(url: str) -> None:
    """Found when the program starts, not in the middle of an order."""
    with pytest.raises(NotOffered, match="needy: step 'one' needs 'tx_steps'"):
        Sagas(url, [Needy()])
    with pytest.raises(NotOffered, match="durability='relaxed' needs 'durability'"):
        Sagas(url, [Slow(0)], durability="relaxed")
    with pytest.raises(ValueError, match="url must read like"):
        Sagas("dbos+sqlite://dbos.db", [Slow(0)])


def test_nobody_at_the_other_end_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Also for those who only ask, before any worker has made the tables."""

    async def main() -> None:
        with pytest.raises(JournalMissing, match="a worker makes them"):
            async with Sagas(f"dbos+sqlite:///{tmp_path}/none.db", worker=False) as sagas:
                await sagas.list()

    asyncio.run(main())


def test_a_process_has_one_dbos_and_says_so(url: str) -> None:
    """Two at once would share queues and executor id without a word."""

    async def main() -> None:
        async with Sagas(url, [Slow(0)], **QUICK):
            with pytest.raises(SagaError, match="one DBOS"):
                async with Sagas(url, [Slow(0)], **QUICK):
                    pass
        async with Sagas(url, [Slow(0)], **QUICK) as sagas:  # and another, once it is closed; threads work again
            handle = await sagas.start(Slow, 1, id="after")
            assert await handle.result(timeout=60) == 3
        assert await asyncio.to_thread(lambda: 7) == 7

    asyncio.run(main())


def test_everything_is_written_as_json(url: str) -> None:
    """Rows that a library reads back must be data: nothing of ours is pickled."""

    async def main() -> None:
        async with Sagas(url, [Slow(0)], **QUICK) as sagas:
            assert await (await sagas.start(Slow, 1, id="json")).result(timeout=60) == 3

    asyncio.run(main())
    with sqlite3.connect(url.removeprefix("dbos+sqlite:///")) as db:
        kinds = db.execute("SELECT DISTINCT serialization FROM workflow_status").fetchall()
        outputs = db.execute("SELECT output FROM operation_outputs").fetchall()
    db.close()
    assert kinds == [("seawall_json",)]
    assert len(outputs) == 2
    assert all("value" in json.loads(text) for (text,) in outputs)


def test_a_worker_that_is_closed_in_good_order_leaves_nothing_to_doubt(url: str) -> None:
    """A deployment is no crash: steps that may run once go on without a human, and each began once."""
    saga, other = Slow(0.3), Slow(0.0)

    async def main() -> None:
        async with Sagas(url, [saga], **QUICK) as sagas:
            handle = await sagas.start(Slow, 1, id="moved")

            async def began() -> bool:
                return bool(saga.began)

            await until(began)
        async with Sagas(url, [other], **QUICK) as sagas:
            assert await (await sagas.handle("moved")).result(timeout=60) == 3
            assert handle.saga_id == "moved/slow"
            row = await sagas.engine.find("moved", None)  # type: ignore[attr-defined]
            assert [record.outcome for record in row.records if record.phase == "do"] == ["ok", "ok"]

    asyncio.run(main())
    assert saga.began + other.began == ["first", "second"]
    assert other.threads == {threading.get_ident()}, "a step that was taken up must run on the loop of its worker"


def test_an_attempt_that_outlives_the_grace_is_lost_and_not_repeated_blindly(url: str) -> None:
    """What was cut off may have taken effect; a step that may run once then needs a human, and takes one's word."""
    saga, other = Slow(60.0), Slow(0.0)

    async def main() -> None:
        async with Sagas(url, [saga], **{**QUICK, "grace": 0.2}) as sagas:
            await sagas.start(Slow, 1, id="cut")

            async def began() -> bool:
                return bool(saga.began)

            await until(began)
        async with Sagas(url, [other], **QUICK) as sagas:
            handle = await sagas.handle("cut")
            with pytest.raises(SagaStuck, match="first"):
                await handle.result(timeout=60)
            assert other.began == []
            await sagas.operate("cut", Word("resolve", "Ann", "the bank says it went through", "first", "41"))
            assert await handle.result(timeout=60) == 42

    asyncio.run(main())
    assert other.began == ["second"]


def test_a_process_that_runs_no_sagas_starts_them_for_those_that_do(url: str) -> None:
    """A web server starts, a worker runs; an id belongs to one input wherever it is started."""
    saga = Slow(0.0)

    async def main() -> None:
        async with Sagas(url, [saga], **QUICK) as worker, Sagas(url, [Slow(0.0)], worker=False) as client:
            handle = await client.start(Slow, 5, id="from-afar")
            assert handle.new
            assert await handle.result(timeout=60) == 7
            again = await client.start(Slow, 5, id="from-afar")
            assert not again.new
            assert [row.user_id for row in await client.list(statuses=["completed"])] == ["from-afar"]
            assert await client.list(name="nobody") == []
            assert (await client.health()).status == "pass"
            assert (await worker.health()).status == "pass"

    asyncio.run(main())
    assert saga.began == ["first", "second"]


def test_a_cancel_is_seen_when_a_long_step_has_ended(url: str) -> None:
    """Words are read while nothing runs; a step of some length looks for them at its end."""
    saga = Slow(1.5)

    async def main() -> None:
        async with Sagas(url, [saga], **QUICK) as sagas:
            handle = await sagas.start(Slow, 1, id="halted")

            async def began() -> bool:
                return bool(saga.began)

            await until(began)
            await handle.cancel("no longer wanted", actor="Ann")
            with pytest.raises(SagaCompensated, match="cancelled by Ann"):
                await handle.result(timeout=60)
            with pytest.raises(NotAllowed, match="compensated"):
                await handle.signal("late", 1)

    asyncio.run(main())
    assert saga.began == ["first"]
    assert saga.undone == ["first"]


def test_a_saga_in_flight_moves_to_a_version_that_may_follow(url: str, ledger: Ledger) -> None:
    """A worker without its version says so; a move to a version whose graph goes on from there lets it end."""

    class Newer(Approval):
        """The same steps, declared anew."""

        name = "approval"
        version = 2

    async def main() -> None:
        async with Sagas(url, [Approval(ledger)], **QUICK) as sagas:
            handle = await sagas.start(Approval, Plan(), id="moves")

            async def waits() -> bool:
                return await handle.status() == "waiting"

            await until(waits)
        async with Sagas(url, [Newer(ledger)], **QUICK) as sagas:
            handle = await sagas.handle("moves")
            await handle.signal("approved", "Ann")
            with pytest.raises(SagaStuck, match="no worker here has version 1"):
                await handle.result(timeout=60)
            row = await sagas.operate("moves", Word("move", "Ann", "deployed", None, "2"))
            assert row.user_id == "moves"
            assert await handle.result(timeout=60) == "booked by Ann"

    asyncio.run(main())


def test_the_command_line_speaks_the_same_words_there(
    url: str, ledger: Ledger, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """ls, show, why and skip, on a saga whose undo fails, while its worker runs."""

    def told(*words: str, status: int = 0) -> str:
        found = command(["saga", *words, "--url", url])
        out = capsys.readouterr()
        assert found == status, out
        return out.out + out.err

    def look() -> None:
        assert "reserve.undo failed" in told("why", "fails")
        assert json.loads(told("show", "fails", "--json"))["steps"][0]["step"] == "reserve"
        assert [row["status"] for row in json.loads(told("ls", "--json"))] == ["stuck"]
        told("skip", "fails", "--step", "reserve", "--actor", "ann", "--reason", "done by hand")
        assert "no saga" in told("show", "nobody", status=2)

    async def main() -> None:
        async with Sagas(url, [Stubborn(ledger)], **QUICK) as sagas:
            handle = await sagas.start(Stubborn, Plan("check"), id="fails")
            with pytest.raises(SagaStuck):
                await handle.result(timeout=60)
            await asyncio.to_thread(look)
            with pytest.raises(SagaCompensated):
                await handle.result(timeout=60)

    asyncio.run(main())
    listed = [row["status"] for row in json.loads(told("ls", "--json"))]
    assert listed == ["compensated_partially"]


def test_a_history_that_ends_anywhere_is_told_as_far_as_it_goes(url: str, ledger: Ledger) -> None:
    """What is shown comes from the history alone: every part of it gives the state at that moment, and nothing is done."""

    async def main() -> None:
        async with Sagas(url, [Trip(ledger), OnceOnly(ledger)], **QUICK) as sagas:
            handle = await sagas.start(Trip, Plan("pay"), id="trip")
            with pytest.raises(SagaCompensated):
                await handle.result(timeout=60)
            client = sagas.engine.tables.client  # type: ignore[attr-defined]
            status = (await client.list_workflows_async(workflow_ids=["trip/trip"]))[0]
            steps = await client.list_workflow_steps_async("trip/trip")
        acts = [(one["function_name"], one["output"]) for one in steps if one["output"]]
        assert {name for name, _ in acts} == {"plane", "hotel", "pay", "hotel.undo", "plane.undo"}
        asked = len(ledger.rows("SELECT * FROM asked"))
        seen = []
        for length in range(len(acts) + 1):
            told = await retell(status.input["args"][0], acts[:length], [])
            seen.append((told["status"], len(told["records"])))
        assert len(ledger.rows("SELECT * FROM asked")) == asked
        assert [status for status, _ in seen] == ["running"] * 3 + ["compensating"] * (len(acts) - 3) + ["compensated"]
        lengths = [length for _, length in seen]
        assert lengths == sorted(lengths)

    asyncio.run(main())
