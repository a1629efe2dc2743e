"""The discovery part of the front door, for type checkers: never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_type

from seawall.discovery import Brake, Instance, Registered, Registration, Registry, Snapshot, Watch, Watching


async def front_door() -> None:
    registry = Registry.open("sqlite:///registry.db", ttl="5s", brake=Brake(hold=5))
    async with registry.register(Instance("payments", port=8001, zone="a")) as registration:
        assert_type(registration, Registration)
        handle: Registered = registration
        await handle.draining()
    async with registry.watch("payments") as watch:
        assert_type(watch, Watching)
        seen: Watch = watch
        assert_type(seen.snapshot, Snapshot)
        assert_type(seen.snapshot.ready, tuple[Instance, ...])
        assert_type(seen.subscribe(print), Callable[[], None])
        async for snapshot in watch.changes():
            assert_type(snapshot, Snapshot)


def without_a_loop() -> None:
    registry = Registry.open("memory:")
    with registry.register(Instance("payments", port=8001)) as registration, registry.watch("payments") as watch:
        registration.ready_sync()
        assert_type(watch.first_sync(1), Snapshot)
        assert_type(registry.services_sync(), tuple[str, ...])
