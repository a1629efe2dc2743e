"""The thin slice: a saga is started, runs, is taken back, and survives kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ledger import STEPS, Ledger, Order, PlaceOrder

from seawall.saga import InputChanged, ResultTimeout, SagaCompensated, Sagas, UnknownSaga


def run(work: Any) -> Any:
    """Run a coroutine in a loop of its own."""
    return asyncio.run(work)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def test_a_saga_runs_its_sync_and_async_steps_and_returns_its_output(url: str, ledger: Ledger) -> None:
    """The first thing that anybody does with it."""

    async def main() -> None:
        async with Sagas(url, [PlaceOrder(ledger)]) as sagas:
            handle = await sagas.start(PlaceOrder, Order("a"), id="order-1")
            assert handle.new
            assert await handle.result(timeout=20) == "paid for 7 of a"
            assert await handle.status() == "completed"
        assert ledger.in_effect() == {"order-1": STEPS}

    run(main())


@pytest.mark.parametrize(("fails", "undone"), [("reserve", []), ("quote", ["reserve"]), ("charge", ["quote", "reserve"])])
def test_a_rejected_step_takes_back_what_was_done_in_reverse(url: str, ledger: Ledger, fails: str, undone: list[str]) -> None:
    """All or nothing, and in the order that the steps stand on each other."""

    async def main() -> None:
        async with Sagas(url, [PlaceOrder(ledger)]) as sagas:
            handle = await sagas.start(PlaceOrder, Order("a", fails), id="order-1")
            with pytest.raises(SagaCompensated, match=f"{fails}: OutOfStock: a") as told:
                await handle.result(timeout=20)
            assert told.value.status == ("compensated" if undone else "failed")

    run(main())
    assert ledger.in_effect() == {}
    taken = [key.split(".")[1] for (key,) in ledger.rows("SELECT key FROM asked WHERE verb='undo' ORDER BY n")]
    assert taken == undone


def test_starting_twice_with_one_id_is_one_saga_and_another_input_is_an_error(url: str, ledger: Ledger) -> None:
    """A client that repeats its request after a lost answer must not order twice."""

    async def main() -> None:
        async with Sagas(url, [PlaceOrder(ledger)]) as sagas:
            first = await sagas.start(PlaceOrder, Order("a"), id="order-1")
            again = await sagas.start(PlaceOrder, Order("a"), id="order-1")
            assert (again.saga_id, again.new) == (first.saga_id, False)
            assert await again.result(timeout=20) == "paid for 7 of a"
            with pytest.raises(InputChanged, match="place-order order-1 was started with another input"):
                await sagas.start(PlaceOrder, Order("b"), id="order-1")
            with pytest.raises(UnknownSaga, match="no saga 'order-2'"):
                await sagas.handle("order-2")
            with pytest.raises(UnknownSaga, match="no saga 'nothing' was given"):
                await sagas.start("nothing", 1)

    run(main())
    assert len(ledger.rows("SELECT * FROM asked")) == 4


def test_a_starter_without_worker_leaves_the_saga_to_a_worker(url: str, ledger: Ledger) -> None:
    """A web process starts, another one runs; sync code can start and ask too."""

    async def ask() -> None:
        async with Sagas(url, [PlaceOrder(ledger)], worker=False) as sagas:
            handle = await sagas.start(PlaceOrder, Order("a"), id="order-1")
            with pytest.raises(ResultTimeout, match=r"has not ended within 0\.2 s"):
                await handle.result(timeout=0.2)

    async def work() -> None:
        async with Sagas(url, [PlaceOrder(ledger)], poll=0.05) as sagas:
            for number in (1, 2):
                handle = await sagas.handle(f"order-{number}")
                assert await handle.result(timeout=20) == "paid for 7 of a"

    run(ask())
    with Sagas(url, [PlaceOrder(ledger)], worker=False) as sagas:
        assert sagas.start_sync(PlaceOrder, Order("a"), id="order-2").new
    run(work())
    with Sagas(url, worker=False) as sagas:
        again = Sagas(url, [PlaceOrder(ledger)], worker=False)
        with again:
            assert again.start_sync(PlaceOrder, Order("a"), id="order-2").result_sync(timeout=5) == "paid for 7 of a"


@pytest.mark.parametrize("fails", ["", "charge"])
def test_a_saga_survives_kill_9(url: str, ledger: Ledger, workers: Any, fails: str) -> None:
    """The promise of the room: the process dies in the middle of a step, another one brings the saga to its end."""
    process = workers.started(url, ledger.path, "--start", 1, "--slow", 0.3, "--fails", fails, "--lease", 1)
    while len(ledger.rows("SELECT * FROM asked")) < 2:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    async def work() -> None:
        async with Sagas(url, [PlaceOrder(ledger)], poll=0.05) as sagas:
            handle = await sagas.handle("order-0")
            try:
                assert await handle.result(timeout=30) == "paid for 7 of sku-0"
            except SagaCompensated:
                assert fails
            assert sagas.snapshot().taken_over == 1

    run(work())
    assert ledger.in_effect() == ({} if fails else {"order-0": STEPS})
    assert len(ledger.rows("SELECT key FROM effect")) == (2 if fails else 4)
