"""What a saga of three empty steps costs on SQLite, every commit synced, beside DBOS; and how soon a restart goes on."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.measure import Row

ENGINES: Final = ("seawall", "dbos", "dbos-wal")
GOALS: Final = {("dbos", 1): ">= 5", ("dbos-wal", 1): ">= 2.5", ("dbos", 50): ">= 40", ("dbos-wal", 50): ">= 20"}
OPEN: Final = 10_000


class Engine:
    """A child that runs sagas when it is told to."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "benchmarks.saga_child", name, str(folder)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == ["ready"], f"{name} did not start"

    def run(self, at_once: int, count: int) -> tuple[float, float]:
        """Seconds and seconds of CPU per saga."""
        assert self._child.stdin is not None
        print(at_once, count, file=self._child.stdin, flush=True)
        took, cpu = map(float, self._line())
        return took / count, cpu / count

    def close(self) -> None:
        """Hang up, and wait for it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()

    def _line(self) -> list[str]:
        assert self._child.stdout is not None
        return self._child.stdout.readline().split()


def rows(*, quick: bool = False) -> list[Row]:
    """The saga area; DBOS comes with the bench packages, and without it only our own figures are told."""
    names = [name for name in ENGINES if name == "seawall" or find_spec("dbos") is not None]
    if len(names) == 1:
        print("DBOS left out: it is not installed; see requirements/bench.in", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        found = beside(names, Path(folder), rounds=3 if quick else 6)
        return [
            *found,
            Row("first step after a restart", restart(Path(folder)) * 1000, "ms", "<= 1000", f"{OPEN} open sagas on SQLite"),
        ]


def beside(names: list[str], folder: Path, *, rounds: int) -> list[Row]:
    """All engines in turn, round after round; the best round of each counts."""
    found = []
    with ExitStack() as stack:
        engines = {name: Engine(name, folder / name) for name in names}
        for engine in engines.values():
            stack.callback(engine.close)
        for at_once, counts in ((1, {"seawall": 200, "other": 25}), (50, {"seawall": 2000, "other": 100})):
            best = dict.fromkeys(engines, (float("inf"), float("inf")))
            for _ in range(rounds):
                for name, engine in engines.items():
                    best[name] = min(best[name], engine.run(at_once, counts.get(name, counts["other"])))
            ours, cpu = best["seawall"]
            found.append(Row(f"sagas a second, {at_once} at once", 1 / ours, "per s", None, "three empty steps, SQLite, strict"))
            if at_once == 50:
                found.append(Row("CPU per saga, 50 at once", cpu * 1000, "ms", "<= 0.8", "the same"))
            for name in names[1:]:
                ratio = best[name][0] / ours
                versus = f"DBOS on SQLite{' in WAL' if name == 'dbos-wal' else ' as shipped'}: {1 / best[name][0]:.0f} per s"
                found.append(Row(f"faster than {name}, {at_once} at once", ratio, "x", GOALS[name, at_once], versus))
    return found


def restart(folder: Path) -> float:
    """Seconds from opening a journal with many open sagas to the end of the first step that goes on."""
    from seawall.saga import Context, Saga, Sagas, step

    done: list[float] = []

    class Waiting(Saga[int, int]):
        """Found in the middle."""

        name = "waiting"

        @step(undo="none")
        async def one(self, _: Context, number: int) -> int:
            """Tells when it is run."""
            done.append(time.perf_counter())
            return number

    url = f"sqlite:///{folder / 'restart.db'}"

    async def fill() -> None:
        async with Sagas(url, [Waiting()], worker=False) as sagas:
            for first in range(0, OPEN, 500):
                await asyncio.gather(*(sagas.start(Waiting, number, id=str(number)) for number in range(first, first + 500)))

    async def resume() -> float:
        began = time.perf_counter()
        async with Sagas(url, [Waiting()]):
            while not done:
                await asyncio.sleep(0.002)
        return done[0] - began

    asyncio.run(fill())
    with sqlite3.connect(folder / "restart.db") as connection:
        (left,) = connection.execute("SELECT count(*) FROM saga WHERE status NOT IN ('completed', 'stuck')").fetchone()
    connection.close()
    assert left == OPEN, f"{left} sagas are open"
    return asyncio.run(resume())
