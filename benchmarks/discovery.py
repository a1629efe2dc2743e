"""How long a change in a registry takes until every client has seen it, on real registries and across processes.

Four client processes watch one service; its only instance changes its state again and again. One sample is the time from just
before the change is written until the last of the four has the new snapshot, on the clock that all processes share.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.measure import Row

CLIENTS = 4
GOALS = {"SQLite": "<= 150", "etcd": "<= 50", "Consul": "<= 50"}


def rows(*, quick: bool = False) -> list[Row]:
    """The discovery area. A registry that cannot be had here has no rows, and says so on stderr."""
    import pytest
    from tests.discovery import servers

    made: dict[str, tuple[Callable[[Path], AbstractContextManager[Any]], Callable[[Any, Path], str]]] = {
        "SQLite": (lambda _: nullcontext(SimpleNamespace()), lambda _, folder: f"sqlite:///{folder}/registry.db"),
        "etcd": (servers.etcd, lambda server, _: f"etcd://127.0.0.1:{server.port}?allow_loopback=true"),
        "Consul": (servers.consul, lambda server, _: f"consul://127.0.0.1:{server.port}?allow_loopback=true"),
    }
    found: list[Row] = []
    for name, (start, url) in made.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                with start(Path(folder)) as server:
                    samples = sorted(measure(url(server, Path(folder)), changes=40 if quick else 300))
            except pytest.skip.Exception as reason:
                print(f"{name}: {reason}", file=sys.stderr)
                continue
        versus = f"{len(samples)} changes, {CLIENTS} client processes, the last of them"
        found.append(Row(f"{name}: change seen by every client, p50", at(samples, 0.5), "ms", None, versus))
        found.append(Row(f"{name}: change seen by every client, p99", at(samples, 0.99), "ms", GOALS[name], versus))
    return found


def at(samples: list[float], share: float) -> float:
    """A quantile of sorted samples: the sample at or above it."""
    return samples[min(len(samples) - 1, int(share * len(samples)))]


def measure(url: str, *, changes: int) -> list[float]:
    """Milliseconds from each change until the last client saw it."""
    command = [sys.executable, "-m", "benchmarks.discovery", url, str(changes)]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]
    try:
        told = asyncio.run(_change(url, changes, clients))
        seen = [[float(line) for line in (client.stdout or ())] for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    assert all(len(each) == changes for each in seen), [len(each) for each in seen]
    return [(max(moments) - began) * 1000 for began, *moments in zip(told, *seen, strict=True)]


async def _change(url: str, changes: int, clients: list[subprocess.Popen[str]]) -> list[float]:
    """Write the changes, once every client says that it sees the instance; the moments just before each."""
    from seawall.discovery import Instance, Registry

    told = []
    async with Registry.open(url).register(Instance("measured", port=1)) as one:
        for client in clients:
            assert client.stdout is not None
            await asyncio.to_thread(client.stdout.readline)
        for number in range(changes):
            await asyncio.sleep(0.2 + number % 7 * 0.013)  # out of step with every poll
            told.append(time.monotonic())
            await one.set_state("draining" if number % 2 == 0 else "ready")
        await asyncio.sleep(1)
    return told


async def _client(url: str, changes: int) -> None:
    """Print one line when the instance is there, and then the moment of each change of its state."""
    from seawall.discovery import Registry, Snapshot

    over, moments, states = asyncio.Event(), list[float](), list[str]()

    def heard(snapshot: Snapshot) -> None:
        now = time.monotonic()
        state = snapshot.instances[0].state if snapshot.instances else None
        if state is not None and [state] != states[-1:] and len(moments) < changes:
            if states:
                moments.append(now)
            else:
                print("there", flush=True)
            states.append(state)
            if len(moments) == changes:
                over.set()

    async with Registry.open(url).watch("measured") as watch:
        watch.subscribe(heard)
        heard(watch.snapshot)
        await asyncio.wait_for(over.wait(), 600)
    print("\n".join(map(repr, moments)), flush=True)


if __name__ == "__main__":
    asyncio.run(_client(sys.argv[1], int(sys.argv[2])))
