"""Workers: leases, hand-over, wake-ups, what they may take, and several processes on one file."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seawall.saga import (
    Context,
    DefinitionError,
    NotAllowed,
    Saga,
    SagaCompensated,
    Sagas,
    Unknown,
    UnknownSaga,
    Word,
    step,
    store,
    wait_signal,
)
from seawall.saga.port import Verb

Conduct = Callable[..., Sagas]


class Gate(Saga[str, str]):
    """Holds its first step until it is let through."""

    name = "gate"

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = 0
        self.most = 0
        self.doubts: list[bool] = []

    @step()
    async def hold(self, ctx: Context, text: str) -> str:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.doubts.append(ctx.doubtful)
        await self.go.wait()
        self.inside -= 1
        return text

    @hold.undo
    async def unhold(self, ctx: Context, text: str, held: str | Unknown) -> None: ...

    @step(after=hold, undo="none")
    async def then(self, ctx: Context, text: str) -> str:
        return f"{ctx.result(self.hold)}!"


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for it, with an end."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.01)


def test_a_worker_that_is_closed_ends_its_step_and_hands_the_saga_over_at_once(conduct: Conduct) -> None:
    """A rolling restart must not cost a lease per pod; what was done is not done again."""

    async def main() -> None:
        first, second = Gate(), Gate()
        second.go.set()
        old = conduct(first, lease=60)
        await old.__aenter__()
        handle = await old.start(Gate, "x", id="x")
        await until(lambda: first.inside)
        closing = asyncio.create_task(old.__aexit__(None, None, None))
        await asyncio.sleep(0.05)
        first.go.set()
        await closing
        began = time.monotonic()
        async with conduct(second, lease=60) as new:
            assert await (await new.handle("x")).result(20) == "x!"
            assert time.monotonic() - began < 10
            assert new.snapshot().taken_over == 0
            assert second.doubts == []
        with pytest.raises(Exception, match="closed"):
            await handle.result(1)

    asyncio.run(main())


def test_a_step_that_outlives_the_grace_is_handed_over_as_possibly_started(conduct: Conduct) -> None:
    """It may have taken effect; whoever goes on must know that."""

    async def main() -> None:
        first, second = Gate(), Gate()
        second.go.set()
        async with conduct(first, lease=60, grace=0.1) as old:
            await old.start(Gate, "x", id="x")
            await until(lambda: first.inside)
        async with conduct(second, lease=60) as new:
            assert await (await new.handle("x")).result(20) == "x!"
            assert new.snapshot().taken_over == 0
        assert second.doubts == [True]

    asyncio.run(main())


def test_a_worker_holds_no_more_sagas_than_it_may(conduct: Conduct) -> None:
    """What is not claimed can be run by others; what is claimed beyond one's means cannot."""

    async def main() -> None:
        gate = Gate()
        async with conduct(worker=False) as asks:
            for n in range(9):
                await asks.start(Gate, str(n), id=str(n))
        async with conduct(gate, running=2) as sagas:
            await until(lambda: gate.inside == 2)
            await asyncio.sleep(0.2)
            assert sagas.snapshot().running == 2
            gate.go.set()
            assert [await (await sagas.handle(str(n))).result(20) for n in range(9)] == [f"{n}!" for n in range(9)]
        assert gate.most == 2

    asyncio.run(main())


def test_a_start_whose_caller_went_away_is_run_all_the_same(conduct: Conduct) -> None:
    """A web request that is cancelled between the commit and its answer must not leave a saga that is owned and not run."""

    async def main() -> None:
        gate = Gate()
        gate.go.set()
        async with conduct(gate) as sagas:
            going = asyncio.create_task(sagas.start(Gate, "x", id="x"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            going.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await going
            end = time.monotonic() + 20
            while True:
                with contextlib.suppress(UnknownSaga):
                    assert await (await sagas.handle("x")).result(20) == "x!"
                    break
                assert time.monotonic() < end
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_a_saga_that_ends_while_its_worker_looks_is_not_taken_for_stolen(
    conduct: Conduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit was made and its answer is on the way: it owns itself no more, but nobody took it."""

    async def main() -> None:
        gate = Gate()
        async with conduct(gate) as sagas:
            handle = await sagas.start(Gate, "x")
            await until(lambda: gate.inside)
            monkeypatch.setattr(store, "owned", lambda tx, worker: [])
            await asyncio.sleep(0.3)
            gate.go.set()
            assert await handle.result(20) == "x!"
            assert (gate.doubts, sagas.snapshot().fenced) == ([False], 0)

    asyncio.run(main())


def test_a_word_from_another_process_takes_a_saga_out_of_its_workers_hands(conduct: Conduct) -> None:
    """An operator cancels from a shell while a worker is inside a step: the worker must let go, and the undo must run."""

    async def main() -> None:
        gate = Gate()
        async with conduct(gate) as sagas, conduct(Gate(), worker=False) as shell:
            handle = await sagas.start(Gate, "x", id="x")
            await until(lambda: gate.inside)
            await (await shell.handle("x")).cancel("wrong order", actor="ada")
            with pytest.raises(SagaCompensated, match="cancelled by ada: wrong order"):
                await handle.result(20)
            assert sagas.snapshot().fenced == 1

    asyncio.run(main())


def test_a_step_that_blocks_the_loop_does_not_cost_the_lease(conduct: Conduct) -> None:
    """The heartbeat has a thread of its own: one careless step must not give all sagas away."""

    class Block(Saga[str, str]):
        name = "block"

        @step(undo="none")
        async def work(self, ctx: Context, text: str) -> str:
            time.sleep(3.2)
            return text

    async def main() -> None:
        async with conduct(Block(), lease=2) as sagas:
            handle = await sagas.start(Block, "x")
            other = asyncio.create_task(asyncio.to_thread(watch))
            assert await handle.result(20) == "x"
            assert await other == 0
            assert (sagas.snapshot().rejoined, sagas.snapshot().fenced) == (0, 0)

    def watch() -> int:
        async def look() -> int:
            async with conduct(Block(), lease=2) as rival:
                await asyncio.sleep(2.8)
                return rival.snapshot().taken_over

        return asyncio.run(look())

    asyncio.run(main())


def test_a_worker_takes_only_what_was_declared_with_the_same_graph(conduct: Conduct) -> None:
    """During a deployment old and new code run side by side; each takes its own, and two graphs under one version cannot mix."""

    def made(number: int, steps: int) -> type[Saga[str, str]]:
        def one(n: int) -> Any:
            def say(self: Any, ctx: Context, text: str) -> str:
                return f"v{number}"

            say.__name__ = f"s{n}"
            return step(undo="none", after=f"s{n - 1}" if n else None)(say)

        body = {"name": "made", "version": number, **{f"s{n}": one(n) for n in range(steps)}}
        return types.new_class("Made", (Saga[str, str],), {}, lambda space: space.update(body))

    one, two, changed = made(1, 1), made(2, 1), made(1, 2)

    async def main() -> None:
        async with conduct(two(), worker=False) as asks:
            await asks.start("made", "x", id="two")
        async with conduct(one()) as old:
            assert await (await old.start(one, "x", id="one")).result(20) == "v1"
            assert await (await old.handle("two")).status() == "pending"
            with pytest.raises(UnknownSaga, match="made version 2 was not given"):
                await old.start(two, "x")
        async with conduct(changed(), worker=False) as asks:
            await asks.start("made", "x", id="changed")
        async with conduct(one(), two()) as both:
            assert await (await both.handle("two")).result(20) == "v2"
            assert await (await both.start("made", "x")).result(20) == "v2"
            assert await (await both.handle("changed")).status() == "pending"
        async with conduct(changed()) as new:
            assert await (await new.handle("changed")).result(20) == "v1"
            known = await new.read(lambda tx: tx.execute("SELECT count(*) FROM saga_definition WHERE name='made'"))
            assert known == [(3,)]
        with pytest.raises(DefinitionError, match="made version 1 is given twice"):
            conduct(one(), changed())

    asyncio.run(main())


class Told(Saga[str, str]):
    """Waits for a word."""

    name = "told"
    word = wait_signal("go", str)


@pytest.mark.parametrize("pooled", [False, True])
def test_postgresql_wakes_other_processes_without_a_poll(postgres: Any, pooled: bool) -> None:
    """Polling is the truth, and slow; a start, a signal and a caller's own commit are heard at once."""
    import psycopg

    url = postgres.database()
    options: dict[str, Any] = {"listen_url": url} if pooled else {}

    async def main() -> None:
        async with Sagas(url, [Told()], poll=60, **options) as works:
            await asyncio.sleep(0.5)  # it listens by then
            async with Sagas(url, [Told()], worker=False, **options) as asks:
                began = time.monotonic()
                handle = await asks.start(Told, "x", id="x")
                with psycopg.connect(url) as connection:
                    await asks.start(Told, "y", id="y", tx=connection)
                for each in ("x", "y"):
                    while await (await works.handle(each)).status() != "waiting":
                        assert time.monotonic() - began < 20, "it was not heard"
                        await asyncio.sleep(0.02)
                    await (await asks.handle(each)).signal("go", "now")
                assert await handle.result(20) == "now"
                assert await (await works.handle("y")).result(20) == "now"
                assert time.monotonic() - began < 30

    asyncio.run(main())
    postgres.drop(url)


def test_a_listener_comes_back_after_its_connection_is_cut(postgres: Any) -> None:
    """Idle connections are cut by every firewall; and a poll finds what was said meanwhile."""
    url = postgres.database()

    async def main() -> None:
        async with Sagas(url, [Told()], poll=60) as works:
            await asyncio.sleep(0.5)
            listeners = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname=current_database()"
            cut = f"SELECT pg_terminate_backend(pid) {listeners}"
            assert await works.read(lambda tx: tx.execute(cut)) == [(True,)]
            async with Sagas(url, [Told()], worker=False) as asks:
                handle = await asks.start(Told, "x", id="x")
                await handle.signal("go", "now")
                assert await handle.result(30) == "now"

    asyncio.run(main())
    postgres.drop(url)


def test_a_worker_whose_lease_is_over_comes_back_under_another_name(postgres: Any) -> None:
    """It dropped its sagas, and nobody else may be there to take them."""
    url = postgres.database()

    async def main() -> None:
        gate = Gate()
        async with Sagas(url, [gate], poll=0.05, lease=0.9) as sagas:
            before = sagas.worker_id
            await sagas.start(Gate, "x", id="x")
            await until(lambda: gate.inside)
            await sagas.committer.send(Verb(lambda tx: tx.execute("UPDATE saga_worker SET until=0")))
            await until(lambda: sagas.snapshot().rejoined == 1 and sagas.worker_id != before)
            gate.go.set()
            assert await (await sagas.handle("x")).result(20) == "x!"
            assert gate.doubts[-1] is True

    asyncio.run(main())
    postgres.drop(url)


def test_writers_of_several_processes_take_turns_on_one_file(tmp_path: Path) -> None:
    """SQLite's own waiting is a lottery in which somebody waits for seconds; in a queue nobody does."""
    url = f"sqlite:///{tmp_path}/a.db"
    with Sagas(url, worker=False):
        pass
    command = [sys.executable, str(Path(__file__).parent / "turn_worker.py"), url, "150"]
    crew = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    waits = [float(process.communicate(timeout=120)[0]) for process in crew]
    print("longest wait of each writer in seconds:", waits)
    assert max(waits) < 2.0
    with Sagas(url, worker=False) as sagas:
        assert sagas.journal.read(lambda tx: tx.execute("SELECT count(*) FROM saga_lock")) == [(600,)]


def test_a_saga_in_flight_moves_to_a_new_version_when_that_is_safe_and_stays_when_not(conduct: Conduct) -> None:
    """A deployment meets sagas that began by the old graph: a human moves those that can, and learns why the others cannot."""

    class Old(Saga[str, str]):
        name, version = "moved", 1

        @step(undo="none")
        async def first(self, ctx: Context, text: str) -> str:
            return text

        word = wait_signal("go", str, after=first)

    class New(Saga[str, str]):
        name, version = "moved", 2

        @step(undo="none")
        async def first(self, ctx: Context, text: str) -> str:
            return text

        @step(after=first, undo="none")
        async def checked(self, ctx: Context, text: str) -> str:
            return "checked"

        word = wait_signal("go", str, after=checked)

    class Bad(Saga[str, str]):
        name, version = "moved", 3

        @step(undo="none")
        async def other(self, ctx: Context, text: str) -> str:
            return text

    async def main() -> None:
        async with conduct(Old()) as old:
            handle = await old.start(Old, "x", id="x")
            end = time.monotonic() + 20
            while await handle.status() != "waiting":
                assert time.monotonic() < end
                await asyncio.sleep(0.02)
        async with conduct(New(), Bad()) as new:
            with pytest.raises(
                NotAllowed, match="step first is in its journal or may have been started, and is not in the new definition"
            ):
                await new.operate("x", Word("move", "ada", "new code", value="3"))
            with pytest.raises(NotAllowed, match="no worker has declared version 9 of moved"):
                await new.operate("x", Word("move", "ada", "new code", value="9"))
            row = await new.operate("x", Word("move", "ada", "new code", value="2"))
            assert row.version == 2
            await (await new.handle("x")).signal("go", "now")
            assert await (await new.handle("x")).result(20) == "now"
            steps = "SELECT step FROM saga_step WHERE outcome='ok' ORDER BY seq"
            assert await new.read(lambda tx: tx.execute(steps)) == [("first",), ("checked",), ("word",)]

    asyncio.run(main())
