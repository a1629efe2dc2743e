"""Registering, watching and leaving, on the registry inside this process and in virtual time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.kit import python

from seawall.core.errors import WrongTwin
from seawall.core.events import Event
from seawall.discovery import Instance, Registry, Snapshot
from seawall.testing import VirtualClock

Scenario = Callable[[Registry, VirtualClock], Coroutine[Any, Any, None]]


def play(scenario: Scenario, **options: Any) -> list[Event]:
    """Run a scenario on a fresh registry in virtual time; the events it caused."""
    clock = VirtualClock()
    registry = Registry.open("memory:", clock=clock, **options)
    events: list[Event] = []
    registry.subscribe(events.append)
    asyncio.run(scenario(registry, clock))
    return events


def ids(snapshot: Snapshot) -> list[str]:
    """The ids of those that are ready."""
    return [instance.id for instance in snapshot.ready]


async def settled(clock: VirtualClock, until: Callable[[], bool], seconds: float = 60.0) -> None:
    """Let virtual time pass until something holds."""
    end = clock.monotonic() + seconds
    while not until():
        assert clock.monotonic() < end, "it never came to hold"
        await clock.asleep(0.01)


def test_an_instance_is_seen_while_its_block_lasts() -> None:
    """The whole promise of a registry: there while you serve, gone after it."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        async with registry.watch("payments") as watch:
            assert not watch.snapshot.known
            assert ids(await watch.first()) == []
            async with registry.register(Instance("payments", port=8001, zone="a")) as registration:
                await settled(clock, lambda: ids(watch.snapshot) == ["127.0.0.1:8001"])
                assert registration.registered
                assert watch.snapshot.instances[0].zone == "a"
            await settled(clock, lambda: ids(watch.snapshot) == [], 0.1)
            assert watch.snapshot.instances[0].state == "down"
            await settled(clock, lambda: watch.snapshot.instances == ())
            assert watch.snapshot.held == frozenset()

    kinds = [event.kind for event in play(scenario)]
    assert kinds.count("registry.registered") == kinds.count("registry.deregistered") == 1
    assert "registry.held" not in kinds


def test_states_are_announced_in_their_order() -> None:
    """Drain begins with word to others: a state that is not announced is a request sent to a closing door."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        async with registry.watch("payments") as watch, registry.register(Instance("payments", port=1, state="starting")) as one:
            await settled(clock, lambda: watch.snapshot.instances != ())
            seen = [watch.snapshot.instances[0].state]
            for verb in (one.ready, one.draining):
                await verb()
                await settled(clock, lambda: watch.snapshot.instances[0].state != seen[-1], 0.1)
                seen.append(watch.snapshot.instances[0].state)
            assert seen == ["starting", "ready", "draining"]
            assert one.instance.state == "draining"
            await one.deregister()
            await one.deregister()
            assert not one.registered

    play(scenario)


def test_a_record_that_was_taken_away_is_written_again_within_one_ttl() -> None:
    """A healthy process that nobody can find is the most frequent complaint about registry clients."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        async with registry.register(Instance("payments", port=1), ttl=6) as one:
            for _ in range(3):
                from seawall.discovery.registries.memory import store_of

                store_of(registry._place).clear()
                assert (await registry.list("payments")).instances == ()
                wiped = clock.monotonic()
                await clock.asleep(0.1)
                while (await registry.list("payments")).instances == ():
                    await clock.asleep(0.05)
                assert clock.monotonic() - wiped <= 6
            assert one.snapshot().losses == 3

    kinds = [event.kind for event in play(scenario)]
    assert kinds.count("registry.lost") == 3


def test_a_record_that_somebody_changed_is_put_right() -> None:
    """A heartbeat that is answered does not prove that the record says what it should."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        async with registry.register(Instance("payments", port=1), ttl=3) as one:
            from seawall.discovery.registries.memory import store_of

            row = store_of(registry._place).rows["payments"][one.instance.id]
            row.instance = replace(row.instance, weight=99.0)
            await clock.asleep(4.0)
            assert (await registry.list("payments")).ready == (one.instance,)

    play(scenario)


def test_nobody_removes_the_record_of_who_came_after_it() -> None:
    """In a rolling restart the new process may be there before the old one has left, at the same address."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        old = registry.register(Instance("payments", port=1, version="1"))
        await old.start()
        async with registry.register(Instance("payments", port=1, version="2")):
            await old.draining()
            await clock.asleep(20)
            assert not old.registered
            assert [one.state for one in (await registry.list("payments")).instances] == ["ready"]
            await old.deregister()
            assert [one.version for one in (await registry.list("payments")).ready] == ["2"]

    play(scenario)


def test_an_instance_whose_heart_stops_is_gone_after_its_ttl() -> None:
    """Who was killed cannot say goodbye."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        killed = registry.register(Instance("payments", port=1), ttl=3)
        async with registry.register(Instance("payments", port=2), ttl=3), registry.watch("payments") as watch:
            await killed.start()
            await settled(clock, lambda: len(ids(watch.snapshot)) == 2)
            await clock.tasks.reap([killed._task])
            at = clock.monotonic()
            await settled(clock, lambda: ids(watch.snapshot) == ["127.0.0.1:2"])
            assert 2 <= clock.monotonic() - at <= 3.1
            assert watch.snapshot.source == "live"

    play(scenario)


def test_changes_are_heard_and_end_when_asked() -> None:
    """Balancers rebuild their tables on word of a change, not by looking."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        heard: list[Snapshot] = []
        async with registry.watch("payments") as watch:
            unsubscribe = watch.subscribe(heard.append)
            watch.subscribe(lambda snapshot: 1 / 0)
            async with registry.register(Instance("payments", port=1)):
                await settled(clock, lambda: len(heard) == 2)
            unsubscribe()
            await clock.asleep(5)
        assert [(len(each.instances), each.source) for each in heard] == [(0, "live"), (1, "live")]
        assert [each.revision for each in heard] == [1, 2]

    play(scenario)


def test_watchers_of_one_loop_share_the_work_and_leave_nothing_open() -> None:
    """A hundred clients of one service must not ask a registry a hundred times."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        async with registry.watch("a") as one, registry.watch("a") as two, registry.watch("b"):
            assert one._watcher is two._watcher
            assert len(registry.snapshot().watches) == 2
        assert registry.snapshot().watches == ()
        assert len(asyncio.all_tasks()) == 1

    play(scenario)


def test_snapshots_come_one_after_the_other() -> None:
    """`async for` is how people write a loop over what changes."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        seen = []
        async with registry.watch("payments") as watch, registry.register(Instance("payments", port=1)):
            async for snapshot in watch.changes():
                seen.append(len(snapshot.instances))
                if snapshot.instances:
                    break
        assert seen[-1] == 1
        assert watch.snapshot.instances != ()

    play(scenario)


def test_the_sync_form_works_without_a_loop_and_refuses_to_block_one() -> None:
    """Half of all services are sync; none of them wants to learn about loops."""
    registry = Registry.open("memory:")
    with registry.watch("payments") as watch, registry.register(Instance("payments", port=1)) as one:
        assert one.registered
        heard: list[Snapshot] = []
        watch.subscribe(heard.append)
        assert watch.first_sync(5).known
        one.draining_sync()
        assert registry.list_sync("payments").instances[0].state == "draining"
        assert registry.services_sync() == ("payments",)
        one.deregister_sync()
        assert not one.registered

        async def blocks() -> None:
            with pytest.raises(WrongTwin, match="set_state"):
                one.draining_sync()

        asyncio.run(blocks())
    assert registry.background._thread is None


def test_named_stores_are_shared_and_others_are_not() -> None:
    """Two halves of one program meet by a name; two tests must not meet by accident."""
    with Registry.open("memory:shop").register(Instance("payments", port=1)):
        assert Registry.open("memory:shop").services_sync() == ("payments",)
        assert Registry.open("memory:").services_sync() == ()


def test_what_cannot_be_meant_is_refused_where_it_is_said() -> None:
    """A registrar that fails in the background tells nobody what was typed wrong."""
    registry = Registry.open("memory:")
    for make, complaint in [
        (lambda: Registry.open("nowhere:"), "url must begin with one of"),
        (lambda: Registry.open("memory"), "must begin with a scheme"),
        (lambda: Registry.open("memory:?colour=red"), "has no option 'colour'"),
        (lambda: Registry.open("memory:", ttl=0.01), "ttl must be at least"),
        (lambda: Registry.open("memory:", stale_for=-1), "stale_for must be"),
        (lambda: registry.watch("a b"), "service must be made of"),
        (lambda: registry.register(Instance("a", port=1, host="169.254.169.254")), "metadata service"),
        (lambda: Instance("a", port=70000), "port must be in"),
        (lambda: Instance("a", port=1, host="a/b"), "host must be made of"),
        (lambda: Instance("a", port=1, weight=-1), "weight must be"),
        (lambda: Instance("a", port=1, metadata={"a": "x" * 2000}), "at most 1024"),
        (lambda: Instance("a", port=1, tags=["x"] * 65), "at most 64"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ValueError, match=complaint):
            make()
    with pytest.raises(TypeError, match="instance must be an Instance"):
        registry.register("payments")  # type: ignore[arg-type]


def test_a_missing_driver_is_named_with_the_line_that_installs_it() -> None:
    """An ImportError from the depths of a library says nothing about the remedy."""
    for scheme, module, package in (("etcd", "httpx2", "httpx2"), ("dns", "dns", "dnspython")):
        code = (
            f"import sys; sys.modules[{module!r}] = None\nfrom seawall.discovery import Registry\nRegistry.open('{scheme}://h')"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f'{scheme}: needs {package}: pip install "seawall[{scheme}]"' in told.stderr


def test_discovery_without_a_driver_loads_none() -> None:
    """A file registry on one machine must not pay for the clients of three others."""
    code = """
        import sys
        from seawall.discovery import Registry
        Registry.open("sqlite:///x")
        print("httpx2" in sys.modules, "dns" in sys.modules)
    """
    told = subprocess.run(python(code), capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_gets_a_thread_of_its_own(tmp_path: Path) -> None:
    """Servers that fork workers after loading the program would otherwise wait for a thread that stayed behind."""
    code = """
        import os, sys
        from seawall.discovery import Instance, Registry
        registry = Registry.open(sys.argv[1])
        with registry.register(Instance("payments", port=1)) as one:
            child = os.fork()
            if child == 0:
                try:
                    one.draining_sync()
                except RuntimeError as error:
                    print("process that entered it" in str(error), flush=True)
                with registry.register(Instance("payments", port=2)) as two:
                    print(two.registered, len(registry.list_sync("payments").ready), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
        print("done")
    """
    told = subprocess.run(python(code, f"sqlite:///{tmp_path}/r.db"), capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.split() == ["True", "True", "2", "done"]


def test_a_registration_serves_once() -> None:
    """A second start would begin with the state that the first one ended with."""

    async def scenario(registry: Registry, clock: VirtualClock) -> None:
        one = registry.register(Instance("payments", port=1))
        async with one:
            with pytest.raises(RuntimeError, match="make another one"):
                await one.start()
        with pytest.raises(RuntimeError, match="make another one"):
            await one.start()

    play(scenario)
