"""The registry in a file: many processes, no server, no time of day."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.discovery.kit import Listener, children, eventually, ids, python

from seawall.discovery import Brake, Instance, Registry, RegistryUnavailable
from seawall.discovery.registries import sqlite as sqlite_registry
from seawall.testing import VirtualClock

MEMBER = """
    import sys, time
    from seawall.discovery import Instance, Registry
    url, port = sys.argv[1:]
    with Registry.open(url).register(Instance("payments", port=int(port)), ttl=2):
        print("there", flush=True)
        time.sleep(60)
"""


def test_processes_find_each_other_and_miss_who_was_killed(tmp_path: Path) -> None:
    """The default for many processes on one machine must work across processes, kill -9 included."""
    url = f"sqlite:///{tmp_path}/registry.db"

    async def scenario() -> None:
        async with Registry.open(url, ttl=2).watch("payments") as watch:
            with children(*(python(MEMBER, url, str(port)) for port in (9001, 9002, 9003))) as members:
                await eventually(lambda: len(ids(watch.snapshot)) == 3)
                members[0].kill()
                took = await eventually(lambda: ids(watch.snapshot) == ["127.0.0.1:9002", "127.0.0.1:9003"])
                assert took <= 2 + 1.5, took
                assert watch.snapshot.source == "live"

    asyncio.run(scenario())


def test_time_to_live_does_not_care_for_the_time_of_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks of machines are set right, backwards and forwards; no instance may die or live longer for it."""
    clock = VirtualClock()
    url = f"sqlite:///{tmp_path}/registry.db"

    async def scenario() -> None:
        registry = Registry.open(url, clock=clock)
        async with registry.register(Instance("payments", port=1), ttl=3), registry.watch("payments") as watch:
            await watch.first()
            for jump in (-86400.0, 10 * 86400.0):
                clock._wall += jump
                monkeypatch.setattr(time, "time", lambda: clock.wall())
                await clock.asleep(10)
                assert len(ids(watch.snapshot)) == 1

    asyncio.run(scenario())


def test_rows_from_before_a_reboot_are_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut the file is full of instances whose moments lie in the future of the new boot."""
    url = f"sqlite:///{tmp_path}/registry.db"

    async def scenario() -> None:
        monkeypatch.setattr(sqlite_registry, "boot_id", lambda: "before")
        killed = Registry.open(url).register(Instance("payments", port=1), ttl=3000)
        await killed.start()
        monkeypatch.setattr(sqlite_registry, "boot_id", lambda: "now")
        assert (await Registry.open(url).list("payments")).instances == ()
        assert await Registry.open(url).services() == ()
        async with Registry.open(url).register(Instance("payments", port=1)):
            assert len((await Registry.open(url).list("payments")).ready) == 1
        await killed.deregister()

    asyncio.run(scenario())


def test_heartbeats_do_not_wake_those_who_watch(tmp_path: Path) -> None:
    """With 80 instances that beat, a follower that read all rows at each beat would do nothing else."""
    url = f"sqlite:///{tmp_path}/registry.db"
    clock = VirtualClock()

    async def scenario() -> None:
        registry = Registry.open(url, clock=clock)
        reads = SimpleNamespace(count=0)
        async with registry.register(Instance("payments", port=1), ttl=3), registry.watch("payments") as watch:
            await clock.asleep(1)
            assert watch._watcher is not None
            backend = watch._watcher._backend
            assert isinstance(backend, sqlite_registry.SqliteBackend)
            real = backend._read

            def counted(service: str) -> object:
                reads.count += 1
                return real(service)

            backend._read = counted  # type: ignore[method-assign,assignment]
            revision = watch.snapshot.revision
            await clock.asleep(30)
            assert watch.snapshot.revision == revision
            assert reads.count <= 20  # one look each time that a row could have died, not one for each of 600 polls

    asyncio.run(scenario())


def test_a_deleted_file_is_made_anew_with_everybody_in_it(tmp_path: Path) -> None:
    """A connection to a file that has no name any more looks healthy for ever."""
    path = tmp_path / "registry.db"
    url = f"sqlite:///{path}"

    async def scenario() -> None:
        one = Registry.open(url).register(Instance("payments", port=1), ttl=1)
        async with one, Registry.open(url).watch("payments") as watch:
            await eventually(lambda: len(ids(watch.snapshot)) == 1)
            for each in tmp_path.glob("registry.db*"):
                each.unlink()
            await eventually(lambda: path.exists(), 5)
            registry = Registry.open(url)
            while not ids(await registry.list("payments")):
                await asyncio.sleep(0.02)
            assert len(ids(watch.snapshot)) == 1

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_record_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """One bad writer must not blind everybody who reads."""
    url = f"sqlite:///{tmp_path}/registry.db"

    async def scenario() -> None:
        registry = Registry.open(url)
        told = []
        registry.subscribe(lambda event: told.append(event) if event.kind == "registry.denied" else None)
        async with registry.register(Instance("payments", port=1)), registry.register(Instance("payments", port=2)):
            import sqlite3

            with sqlite3.connect(f"{tmp_path}/registry.db") as file:
                file.execute("UPDATE seawall_instances SET record = '{\"port\": 0}' WHERE id = '127.0.0.1:1'")
            file.close()
            async with registry.watch("payments") as watch:
                await watch.first(5)
                assert ids(watch.snapshot) == ["127.0.0.1:2"]
                await eventually(lambda: len(told) == 1)

    asyncio.run(scenario())


def test_a_folder_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    """A typo in a path must not become a registry that nobody else reads."""
    registry = Registry.open(f"sqlite:///{tmp_path}/nowhere/registry.db")
    with pytest.raises(RegistryUnavailable, match="unable to open"):
        registry.services_sync()
    with pytest.raises(ValueError, match="needs a file"):
        Registry.open("sqlite:///:memory:")
    with pytest.raises(ValueError, match="three slashes"):
        Registry.open("sqlite://registry.db")


def test_a_writer_that_was_frozen_in_its_transaction_takes_nobody_away(tmp_path: Path) -> None:
    """A stopped process can hold the lock of the file for ever: heartbeats fail, but those who answer stay in use."""
    url = f"sqlite:///{tmp_path}/registry.db"
    frozen = """
        import sqlite3, sys, time
        file = sqlite3.connect(sys.argv[1], isolation_level=None)
        file.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        time.sleep(60)
    """

    async def scenario() -> None:
        registry = Registry.open(url, ttl=1, call_timeout=1, brake=Brake(probe_every=0.2))
        with Listener() as listener:
            one = registry.register(Instance("payments", port=listener.port))
            async with one, registry.watch("payments") as watch:
                await eventually(lambda: len(ids(watch.snapshot)) == 1)
                fewest = [1]
                watch.subscribe(lambda snapshot: fewest.append(len(snapshot.ready)))
                with children(python(frozen, f"{tmp_path}/registry.db"), stdout=subprocess.PIPE) as (child,):
                    assert child.process.stdout is not None
                    await asyncio.to_thread(child.process.stdout.readline)
                    child.freeze()
                    await eventually(lambda: not one.registered and bool(watch.snapshot.held))
                    await asyncio.sleep(2)
                    child.process.stdout.close()
                await eventually(lambda: one.registered and not watch.snapshot.held)
                assert min(fewest) == 1

    asyncio.run(scenario())
