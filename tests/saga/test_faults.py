"""S1 to S3 against real processes: SIGKILL at every commit, freezing beyond the lease, several workers killed and frozen at
once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ledger import STEPS, Ledger, Order, PlaceOrder

from seawall.saga import Sagas, store
from seawall.saga.plan import TERMINAL

COMMITS = {
    "": 5,
    "charge": 6,
}  # a start, a record each, the end within the last; one more than there are, to see that the last is reached


def verify(url: str, ledger: Ledger, sagas: int, fails: list[str]) -> dict[str, int]:
    """What S1 and S2 ask: every saga has ended, all of its effects stand or none, each key at most once, undone in reverse."""
    journal = Sagas(url, worker=False).journal
    journal.open()
    rows = journal.read(lambda tx: [store.find(tx, f"order-{number}") for number in range(sagas)])
    journal.close()
    effects, ends = ledger.in_effect(), {}
    for number, row in enumerate(rows):
        assert row.status in TERMINAL, (row.user_id, row.status, row.error)
        whole = not fails[number % len(fails)]
        assert row.status == "completed" if whole else row.status in ("compensated", "failed"), (row.user_id, row.status)
        assert effects.get(row.user_id, set()) == (STEPS if whole else set()), row.user_id
        dones = [record.step for record in row.records if record.phase == "do"]
        undos = [record.step for record in row.records if record.phase == "undo"]
        assert len(dones) == len(set(dones)), row.user_id
        assert undos == sorted(undos, key=["charge", "quote", "reserve"].index)
        assert [record.seq for record in row.records] == list(range(1, len(row.records) + 1))
        ends[row.status] = ends.get(row.status, 0) + 1
    assert len(ledger.rows("SELECT DISTINCT key FROM effect")) == len(ledger.rows("SELECT key FROM effect"))
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
def test_a_kill_at_every_commit_loses_nothing_and_repeats_no_effect(tmp_path: Path, workers: Any, fails: str, side: str) -> None:
    """S1, S2: SIGKILL right before and right after each write of the journal, then recovery: all or nothing, once per key."""
    ends = []
    for number in range(1, COMMITS[fails] + 1):
        url, ledger = f"sqlite:///{tmp_path}/{number}.db", Ledger(tmp_path / f"ledger-{number}.db")
        options = ("--start", 1, "--fails", fails, "--kill-at", number, "--side", side, "--wait")
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
    assert ends == [{"compensated" if fails else "completed": 1}] * (COMMITS[fails] - (side == "before"))


def test_a_frozen_worker_is_taken_over_and_its_late_writes_are_refused(tmp_path: Path, workers: Any) -> None:
    """S3: SIGSTOP for several leases; the sagas go on elsewhere, and what the thawed worker still writes is not accepted."""
    url, ledger = f"sqlite:///{tmp_path}/sagas.db", Ledger(tmp_path / "ledger.db")
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
    assert verify(url, ledger, 3, [""]) == before == {"completed": 3}


def campaign(url: str, tmp_path: Path, workers: Any, *, sagas: int, seed: int, durability: str = "strict") -> dict[str, Any]:
    """Four workers over `sagas` sagas, killed and frozen at random until all have ended; what was seen."""
    draw = random.Random(seed)
    ledger = Ledger(tmp_path / "ledger.db")
    fails = ["", "charge", "", "reserve", "quote"]
    with Sagas(url, [PlaceOrder(ledger)], worker=False) as starter:
        for number in range(sagas):
            starter.start_sync(PlaceOrder, Order(f"sku-{number}", fails[number % len(fails)], 0.002), id=f"order-{number}")
        options = ("--lease", 1.5, "--running", 20, "--durability", durability)
        crew = [workers.started(url, ledger.path, *options) for _ in range(4)]
        kills = freezes = 0
        until = time.monotonic() + 60 + sagas * 0.2
        asked = "SELECT count(*) FROM saga WHERE wake_at IS NOT NULL"
        while starter.journal.read(lambda tx: tx.execute(asked))[0][0]:
            assert time.monotonic() < until, "sagas were left"
            time.sleep(draw.uniform(0.2, 0.8))
            victim = draw.randrange(4)
            if draw.random() < 0.5:
                os.kill(crew[victim].pid, signal.SIGKILL)
                crew[victim] = workers.start(url, ledger.path, *options)
                kills += 1
            else:
                os.kill(crew[victim].pid, signal.SIGSTOP)
                time.sleep(draw.uniform(0.1, 2.5))
                os.kill(crew[victim].pid, signal.SIGCONT)
                freezes += 1
    ends = verify(url, ledger, sagas, fails)
    repeated = ledger.rows("SELECT count(*) FROM (SELECT key FROM asked GROUP BY key, verb HAVING count(*) > 1)")[0][0]
    return {"sagas": sagas, "kills": kills, "freezes": freezes, "ends": ends, "requests repeated with their key": repeated}


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("durability", ["strict", "edges", "relaxed"])
def test_four_workers_killed_and_frozen_at_random_end_every_saga(
    tmp_path: Path, workers: Any, soak_seconds: float, soak_seed: int, durability: str
) -> None:
    """S1 to S3 at once: 0 lost, 0 duplicate effects per key, 100 % ended, in every durability. 5 000 sagas in a soak of 600 s."""
    sagas = 150 if soak_seconds <= 5 else int(soak_seconds * 5000 / 600)
    print(campaign(f"sqlite:///{tmp_path}/sagas.db", tmp_path, workers, sagas=sagas, seed=soak_seed, durability=durability))
