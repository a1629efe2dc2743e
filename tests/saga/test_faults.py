"""S1 to S3 against real processes: SIGKILL at every commit, freezing beyond the lease, several workers killed and frozen at
once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger import STEPS, Ledger, Order, PlaceOrder
from postgres_server import Server

from seawall.saga import Context, JournalError, LeaseLost, Saga, SagaCompensated, Sagas, Word, step, store
from seawall.saga.journals import postgres_steps
from seawall.saga.journals.schema import COLUMNS
from seawall.saga.plan import TERMINAL

COMMITS = {"": 5, "charge": 6}  # a start, a record each, and the end within the last; the last of them is reached too


def verify(url: str, ledger: Ledger, sagas: int, fails: list[str], *, may_lose: bool = False) -> dict[str, int]:
    """What S1 and S2 ask: every saga has ended, all of its effects stand or none, each key at most once, undone in reverse; and
    what S3 asks: no line of an older owner behind one of a newer. may_lose: acknowledged starts may be gone, with no effect."""
    journal = Sagas(url, worker=False).journal
    journal.open()
    rows = journal.read(lambda tx: [store.row_of(columns) for columns in tx.execute(f"SELECT {COLUMNS} FROM saga")])
    lines = journal.read(lambda tx: store.records(tx, [row.id for row in rows]))
    owners = journal.read(lambda tx: tx.execute("SELECT saga_id, epoch, worker FROM saga_step ORDER BY saga_id, seq"))
    journal.close()
    effects, ends = ledger.in_effect(), {"lost": sagas - len(rows)}
    assert may_lose or not ends["lost"]
    for row in rows:
        row.records = lines.get(row.id, [])
        assert row.status in TERMINAL, (row.user_id, row.status, row.error)
        whole = not fails[int(row.user_id.split("-")[1]) % len(fails)]
        assert row.status == "completed" if whole else row.status in ("compensated", "failed"), (row.user_id, row.status)
        assert effects.get(row.user_id, set()) == (STEPS if whole else set()), row.user_id
        dones = [record.step for record in row.records if record.phase == "do"]
        undos = [record.step for record in row.records if record.phase == "undo"]
        assert len(dones) == len(set(dones)), row.user_id
        assert undos == sorted(undos, key=["charge", "quote", "reserve"].index)
        assert [record.seq for record in row.records] == list(range(1, len(row.records) + 1))
        ends[row.status] = ends.get(row.status, 0) + 1
    for before, after in itertools.pairwise(owners):
        stale = before[0] == after[0] and (after[1] < before[1] or (after[1] == before[1] and after[2] != before[2]))
        assert not stale, f"a stale write was accepted: {after} after {before}"
    twice = "SELECT saga, step FROM effect GROUP BY saga, step HAVING count(DISTINCT key) > 1"
    assert ledger.rows(twice) == [], "a step took effect under two keys"
    return ends


async def recover(url: str, ledger: Ledger, sagas: int, seconds: float = 60) -> None:
    """Run what is left."""
    async with Sagas(url, [PlaceOrder(ledger)], poll=0.05) as left:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = await left.read(lambda tx: tx.execute("SELECT count(*) FROM saga WHERE wake_at IS NOT NULL"))
            if found[0][0] == 0:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("sagas were left")


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("fails", ["", "charge"])
def test_a_kill_at_every_commit_loses_nothing_and_repeats_no_effect(
    tmp_path: Path, fresh: Callable[[], str], workers: Any, fails: str, side: str
) -> None:
    """S1, S2: SIGKILL right before and right after each write of the journal, then recovery: all or nothing, once per key."""
    ends = []
    for number in range(1, COMMITS[fails] + 1):
        url, ledger = fresh(), Ledger(tmp_path / f"ledger-{number}.db")
        options = ("--start", 1, "--fails", fails, "--kill-at", number, "--side", side, "--wait", "--lease", 1)
        process = workers.start(url, ledger.path, *options)
        assert process.wait(60) == -signal.SIGKILL, f"commit {number} was never reached"
        said = process.stdout.read()
        acknowledged = "started 0" in said
        if number == 1 and side == "before":
            assert not acknowledged
            continue  # nothing was promised, and nothing is there
        assert "done" not in said
        asyncio.run(recover(url, ledger, 1))
        ends.append(verify(url, ledger, 1, [fails]))
    assert ends == [{"lost": 0, "compensated" if fails else "completed": 1}] * (COMMITS[fails] - (side == "before"))


def test_a_frozen_worker_is_taken_over_and_its_late_writes_are_refused(tmp_path: Path, url: str, workers: Any) -> None:
    """S3: SIGSTOP for several leases; the sagas go on elsewhere, and what the thawed worker still writes is not accepted."""
    ledger = Ledger(tmp_path / "ledger.db")
    frozen = workers.started(url, ledger.path, "--start", 3, "--slow", 0.4, "--lease", 1)
    while len(ledger.rows("SELECT * FROM asked")) < 3:
        assert frozen.poll() is None
    os.kill(frozen.pid, signal.SIGSTOP)
    time.sleep(1.2)  # beyond the lease
    asyncio.run(recover(url, ledger, 3))
    before = verify(url, ledger, 3, [""])
    journal = Sagas(url, worker=False).journal
    journal.open()
    count = "SELECT count(*), max(epoch) FROM saga_step"
    told = journal.read(lambda tx: tx.execute(count))
    os.kill(frozen.pid, signal.SIGCONT)
    time.sleep(1.5)
    assert frozen.poll() is None, "it must live on, with another lease"
    assert journal.read(lambda tx: tx.execute(count)) == told, "a stale write was accepted"
    journal.close()
    assert verify(url, ledger, 3, [""]) == before == {"lost": 0, "completed": 3}


FAILS = ["", "charge", "", "reserve", "quote"]


def left(starter: Sagas) -> int:
    """Sagas that have not ended; a server that is away does not tell."""
    try:
        return int(starter.journal.read(lambda tx: tx.execute("SELECT count(*) FROM saga WHERE wake_at IS NOT NULL"))[0][0])
    except JournalError:
        return -1


class Crew:
    """Four workers, one of which dies or freezes at every blow; a frozen one thaws after up to 2.5 s, beyond its lease or not."""

    def __init__(self, workers: Any, url: str, ledger: Ledger, *, seed: int, durability: str, running: int, pause: float) -> None:
        self._workers = workers
        self._draw = random.Random(seed)
        self._pause = pause
        self._call = (url, ledger.path, "--lease", 1, "--running", running, "--durability", durability)
        self.all = [workers.started(*self._call) for _ in range(4)]
        self._frozen: dict[int, float] = {}
        self.seen = {"kills": 0, "freezes": 0}

    def blow(self) -> None:
        """Kill or freeze one of them."""
        time.sleep(self._draw.uniform(0.1, 1.9) * self._pause)
        for victim, until in list(self._frozen.items()):
            if time.monotonic() >= until:
                os.kill(self.all[victim].pid, signal.SIGCONT)
                del self._frozen[victim]
        victim = self._draw.randrange(4)
        if victim in self._frozen or len(self._frozen) > 2:
            return
        if self._draw.random() < 0.5:
            os.kill(self.all[victim].pid, signal.SIGKILL)
            self.all[victim] = self._workers.start(*self._call)
            self.seen["kills"] += 1
        else:
            os.kill(self.all[victim].pid, signal.SIGSTOP)
            self._frozen[victim] = time.monotonic() + self._draw.uniform(0.1, 2.5)
            self.seen["freezes"] += 1


def campaign(
    url: str, tmp_path: Path, workers: Any, *, sagas: int, seed: int, durability: str, server: Any = None
) -> dict[str, Any]:
    """Four workers over `sagas` sagas, killed and frozen at random until all have ended; what was seen.

    server: crashes three times too.
    """
    ledger = Ledger(tmp_path / "ledger.db")
    slow, running, pause = (0.1, 2, 0.2) if sagas < 200 else (0.02, 20, 0.8)
    with Sagas(url, [PlaceOrder(ledger)], worker=False, durability=durability) as starter:
        for number in range(sagas):
            starter.start_sync(PlaceOrder, Order(f"sku-{number}", FAILS[number % len(FAILS)], slow), id=f"order-{number}")
        crew = Crew(workers, url, ledger, seed=seed, durability=durability, running=running, pause=pause)
        crashes = 0
        until = time.monotonic() + 90 + sagas * 0.2
        while left(starter):
            assert time.monotonic() < until, f"sagas were left: {left(starter)}"
            crew.blow()
            if server is not None and crashes < 3:
                server.stop(crash=True)
                server.start()
                crashes += 1
    stuck = asyncio.run(unstick(url, ledger))
    ends = verify(url, ledger, sagas, FAILS, may_lose=durability == "relaxed" and server is not None)
    repeated = ledger.rows("SELECT count(*) FROM (SELECT key FROM asked GROUP BY key, verb HAVING count(*) > 1)")[0][0]
    told = {"sagas": sagas, **crew.seen, "server crashes": crashes, "ends": ends, "crash loops": stuck}
    return {**told, "requests repeated with their key": repeated}


async def unstick(url: str, ledger: Ledger) -> int:
    """Whoever was over a saga when four workers in a row were shot is stuck, seen, and goes on at a human's word; how many."""
    async with Sagas(url, [PlaceOrder(ledger)], poll=0.05) as sagas:
        found = await sagas.read(lambda tx: tx.execute("SELECT id, error FROM saga WHERE status='stuck'"))
        for saga, error in found:
            assert error.startswith("crash_loop: 4 workers in a row"), error
            await sagas.operate(saga, Word("retry", "ada", "the workers were shot by a test"))
        for saga, _ in found:
            with contextlib.suppress(SagaCompensated):
                await (await sagas.handle(saga)).result(60)
    return len(found)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("durability", ["strict", "edges", "relaxed"])
def test_four_workers_killed_and_frozen_at_random_end_every_saga(
    tmp_path: Path, url: str, workers: Any, soak_seconds: float, soak_seed: int, durability: str
) -> None:
    """S1 to S3 at once: 0 lost, 0 duplicate effects per key, 100 % ended, in every durability. 5 000 sagas in a soak of 600 s."""
    small = 50 if durability == "strict" else 25
    sagas = small if soak_seconds <= 5 else int(soak_seconds * 5000 / 600)
    print(campaign(url, tmp_path, workers, sagas=sagas, seed=soak_seed, durability=durability))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("durability", ["strict", "edges", "relaxed"])
def test_a_postgresql_that_crashes_under_four_workers_loses_what_the_durability_says(
    tmp_path: Path, workers: Any, soak_seconds: float, soak_seed: int, durability: str
) -> None:
    """The server dies at once, three times, and with it what was not synced: strict and edges lose no start, nothing loses or
    doubles an effect, and workers that live on never build on a record that is gone."""
    server = Server(fsync=True)
    try:
        sagas = 30 if soak_seconds <= 5 else int(soak_seconds)
        url = server.database()
        print(campaign(url, tmp_path, workers, sagas=sagas, seed=soak_seed, durability=durability, server=server))
    finally:
        server.close()


def test_a_restart_of_postgresql_is_waited_for_by_everybody(tmp_path: Path) -> None:
    """An update of the server must not fail an order: workers, heartbeats, listeners and starters come back by themselves."""
    server = Server()
    url, ledger = server.database(), Ledger(tmp_path / "ledger.db")

    async def main() -> None:
        async with Sagas(url, [PlaceOrder(ledger)], poll=0.1) as sagas:
            before = [await sagas.start(PlaceOrder, Order(f"{n}", "", 0.15), id=f"order-{n}") for n in range(10)]
            await asyncio.to_thread(server.stop)
            starting = asyncio.create_task(start_until(sagas, 10))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            for handle in (*before, await starting):
                assert str(await handle.result(60)).startswith("paid for 7")
            assert sagas.snapshot().resent

    try:
        asyncio.run(main())
        assert verify(url, ledger, 11, [""]) == {"lost": 0, "completed": 11}
    finally:
        server.close()


async def start_until(sagas: Sagas, number: int) -> Any:
    """What a client does that gets an error: the same start again, with its id."""
    for _ in range(100):
        try:
            return await sagas.start(PlaceOrder, Order(f"{number}"), id=f"order-{number}")
        except JournalError:
            await asyncio.sleep(0.1)
    raise AssertionError("the server never came back")


def test_a_server_that_dies_under_a_tx_step_costs_no_attempt_and_doubles_no_row(tmp_path: Path) -> None:
    """Its transaction is gone with the server, so it runs again; a commit whose answer was lost is looked up, not redone."""
    server = Server()
    url = server.database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE note (id TEXT)")
    crashed: list[int] = []

    class Note(Saga[None, str]):
        name = "note"

        @step(tx=True)
        def write(self, ctx: Context, _: None) -> str:
            ctx.tx.execute("INSERT INTO note VALUES (?)", (ctx.key,))
            if not crashed:
                crashed.append(1)
                server.stop(crash=True)
                server.start()
                ctx.tx.execute("SELECT 1")
            return f"attempt {ctx.attempt}"

    async def main() -> None:
        async with Sagas(url, [Note()], poll=0.1) as sagas:
            handle = await sagas.start(Note, None, id="a")
            assert await handle.result(60) == "attempt 1"
            commit = postgres_steps._commit
            lost: list[int] = []

            def deaf(journal: Any, connection: Any, guard: Any) -> None:
                commit(journal, connection, guard)
                if not lost:
                    lost.append(1)
                    raise LeaseLost("the answer of the commit was lost")

            postgres_steps._commit = deaf  # type: ignore[assignment]
            try:
                assert await (await sagas.start(Note, None, id="b")).result(60) == "attempt 1"
            finally:
                postgres_steps._commit = commit
            assert lost

    try:
        asyncio.run(main())
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*), count(DISTINCT id) FROM note").fetchone() == (2, 2)
    finally:
        server.close()


def test_a_worker_can_be_closed_while_its_server_is_away(tmp_path: Path) -> None:
    """A shutdown must end, also in the middle of an outage; the lease ends by itself and the saga goes on elsewhere."""
    server = Server()
    url, ledger = server.database(), Ledger(tmp_path / "ledger.db")

    async def main() -> None:
        async with Sagas(url, [PlaceOrder(ledger)], poll=0.1, lease=1, grace=0.2) as sagas:
            await sagas.start(PlaceOrder, Order("a", "", 0.3), id="order-0")
            await asyncio.to_thread(server.stop, crash=True)
        await asyncio.to_thread(server.start)
        await recover(url, ledger, 1)

    try:
        asyncio.run(main())
        assert verify(url, ledger, 1, [""]) == {"lost": 0, "completed": 1}
    finally:
        server.close()
