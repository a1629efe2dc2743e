"""What a registry may do, and what may be done to instances, while calls go on: R1 to R3 of the promises.

R1: nobody calls a killed instance later than TTL + delay of the watch + one probe. R2: a registry that is frozen, killed or
emptied costs no call. R3: when most instances vanish at once, traffic keeps spreading over all that answer.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import shutil
import time
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.kit import Child, eventually, ids, python
from tests.discovery.servers import Server, etcd

from seawall.discovery import Brake, Instance, Registration, Registry, Watching

TTL = 1.0
WATCH_DELAY = 0.15  # sqlite: 50 ms between looks, and a busy machine
PROBE = 0.5
MEMBER = """
    import asyncio, sys
    from seawall.discovery import Instance, Registry

    async def answer(reader, writer):
        writer.write(b"here")
        writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Registry.open(sys.argv[1], ttl=float(sys.argv[2])).register(Instance("payments", port=port, id=sys.argv[3])):
            await asyncio.Event().wait()

    asyncio.run(main())
"""


async def call(instance: Instance) -> bool:
    """One call: whether it was answered."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(instance.host, instance.port)
            try:
                return await reader.read() == b"here"
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


@pytest.mark.soak
def test_nobody_calls_a_killed_instance_for_long(tmp_path: Path, soak_seconds: float, soak_seed: int) -> None:
    """R1, with kill -9 at random moments: 200 kills in a soak of ten minutes, a few otherwise."""
    kills, chance = max(3, min(200, int(soak_seconds / 3))), random.Random(soak_seed)
    url = f"sqlite:///{tmp_path}/registry.db"
    late: list[float] = []

    async def scenario() -> None:
        members: dict[str, Child] = {}
        killed: dict[str, float] = {}
        numbers = itertools.count()
        registry = Registry.open(url, ttl=TTL, brake=Brake(probe_every=PROBE))

        async def traffic(watch: Watching) -> None:
            for turn in itertools.count():
                ready = watch.snapshot.ready
                if ready:
                    picked = ready[turn % len(ready)]
                    if picked.id in killed:
                        late.append(time.monotonic() - killed[picked.id])
                    await call(picked)
                await asyncio.sleep(0.005)

        def start() -> None:
            name = f"m{next(numbers)}"
            members[name] = Child(python(MEMBER, url, str(TTL), name))

        try:
            async with registry.watch("payments") as watch:
                for _ in range(3):
                    start()
                await eventually(lambda: len(ids(watch.snapshot)) == 3, 30)
                calling = asyncio.ensure_future(traffic(watch))
                for _ in range(kills):
                    await asyncio.sleep(chance.uniform(0, TTL / 2))
                    name = chance.choice(sorted(members))
                    killed[name] = time.monotonic()
                    members.pop(name).kill()
                    await eventually(lambda gone=name: gone not in ids(watch.snapshot), 30)
                    start()
                    await eventually(lambda: len(ids(watch.snapshot)) == 3, 30)
                calling.cancel()
                with suppress(asyncio.CancelledError):
                    await calling
                assert len(killed) == kills
                assert late  # calls do go to the dead for a while: that is what is bounded
        finally:
            for child in members.values():
                child.kill()

    asyncio.run(scenario())
    print(f"{kills} kills, latest call {max(late, default=0):.3f} s after one")
    assert max(late, default=0) <= TTL + WATCH_DELAY + PROBE


# --- R2 and R3, on a real etcd


class Fleet:
    """Five instances that answer on real sockets, and one caller that never stops."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.members: list[Registration] = []
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.nobody = 0

    async def run(self, trouble: Any) -> None:
        """Call through `watch` while `trouble(watch)` goes on."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"here")
            writer.close()

        async with AsyncExitStack() as stack:
            for _ in range(5):
                server = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
                one = self.registry.register(Instance("payments", port=server.sockets[0].getsockname()[1]))
                self.members.append(await stack.enter_async_context(one))
            watch = await stack.enter_async_context(self.registry.watch("payments"))
            await eventually(lambda: len(ids(watch.snapshot)) == 5)
            calling = asyncio.ensure_future(self._call(watch))
            await trouble(watch)
            calling.cancel()
            with suppress(asyncio.CancelledError):
                await calling

    async def _call(self, watch: Watching) -> None:
        for turn in itertools.count():
            ready = watch.snapshot.ready
            if not ready:
                self.nobody += 1
            else:
                picked = ready[turn % len(ready)]
                (self.answered.update if await call(picked) else self.failed.extend)([picked.id])
            await asyncio.sleep(0.01)


def wipe(server: Server) -> None:
    """Take out every key."""
    body = {"key": base64.b64encode(b"/").decode(), "range_end": base64.b64encode(b"0").decode()}
    url = f"http://127.0.0.1:{server.port}/v3/kv/deleterange"
    request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()


@pytest.mark.soak
@pytest.mark.xdist_group("etcd")
@pytest.mark.parametrize("trouble", ["frozen", "killed", "emptied"])
def test_a_registry_in_trouble_costs_no_call(trouble: str, tmp_path: Path, soak_seconds: float) -> None:
    """R2 and R3: two minutes of each in a soak, seconds otherwise; then everybody is back within one TTL."""
    lasts, ttl = min(120.0, soak_seconds), 3.0

    async def scenario(server: Server) -> None:
        registry = Registry.open(f"etcd://127.0.0.1:{server.port}", ttl=ttl, watchdog=2, call_timeout=1, allow_loopback=True)
        fleet = Fleet(registry)

        async def go_wrong(watch: Watching) -> None:
            if trouble == "frozen":
                server.child.freeze()
                await asyncio.sleep(lasts)
                assert watch.snapshot.source == "stale"
                server.child.thaw()
            elif trouble == "killed":
                server.child.kill()
                await asyncio.sleep(lasts)
                assert watch.snapshot.source == "stale"
                shutil.rmtree(tmp_path / "data")
                await asyncio.to_thread(server.again)
            else:
                end = time.monotonic() + lasts
                while time.monotonic() < end:
                    await asyncio.to_thread(wipe, server)
                    await asyncio.sleep(0.3)
            over = time.monotonic()
            while True:
                with suppress(Exception):
                    if len((await registry.list("payments")).ready) == 5 and all(one.registered for one in fleet.members):
                        break
                assert time.monotonic() - over < 30
                await asyncio.sleep(0.05)
            back = time.monotonic() - over
            await eventually(lambda: watch.snapshot.source == "live" and not watch.snapshot.held, 30)
            print(f"{trouble} for {lasts:g} s: all back after {back:.2f} s, {fleet.answered.total()} calls answered")
            assert back <= ttl + 1  # a busy machine's second on top of the ttl

        await fleet.run(go_wrong)
        assert (fleet.failed, fleet.nobody) == ([], 0)
        assert len(fleet.answered) == 5
        assert min(fleet.answered.values()) >= fleet.answered.total() / 5 * 0.5  # nobody was left out for long

    with etcd(tmp_path) as server:
        asyncio.run(scenario(server))
