"""`seawall registry ls | watch | register | drain`: look into a registry, and change what stands there."""

from __future__ import annotations

import asyncio
import json as codec
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any

from cyclopts import Parameter

from seawall.cli import BAD_INPUT
from seawall.cli.table import table

NO_ANSWER = 1
Flag = Annotated[bool, Parameter(negative=())]


def ls(url: str, service: str | None = None, /, *, json: Flag = False) -> int:
    """List the instances of a registry. The exit status is 1 when it does not answer.

    Parameters
    ----------
    url
        Such as sqlite:///registry.db, etcd://host:2379, consul://host:8500.
    service
        Only this service.
    json
        Print JSON.
    """

    async def work() -> int:
        from seawall.discovery.records import as_record

        registry = _open(url)
        names = (service,) if service is not None else await registry.services()
        found = [one for name in names for one in (await registry.list(name)).instances]
        if json:
            print(codec.dumps([as_record(one) for one in found], indent=1))
        else:
            table([("service", "id", "state", "url", "zone", "weight", "version"), *map(_row, found)])
        return 0

    return _guarded(work)


def watch(url: str, service: str, /, *, json: Flag = False) -> int:
    """Print every change of a service until interrupted.

    Parameters
    ----------
    url
        The registry.
    service
        What to watch.
    json
        Print one JSON object per change.
    """

    async def work() -> int:
        from seawall.discovery.records import as_record

        async with _open(url).watch(service) as watching:
            async for snapshot in watching.changes():
                if json:
                    told = {"source": snapshot.source, "revision": snapshot.revision, "held": sorted(snapshot.held)}
                    print(codec.dumps({**told, "instances": [as_record(one) for one in snapshot.instances]}), flush=True)
                else:
                    ones = ", ".join(f"{one.id} {one.state}{' (held)' * (one.id in snapshot.held)}" for one in snapshot.instances)
                    print(f"{snapshot.source:<6} {len(snapshot.ready)} ready: {ones or 'nobody'}", flush=True)
        return 0

    return _guarded(work)


def register(
    url: str,
    service: str,
    /,
    *,
    port: int,
    host: str = "127.0.0.1",
    id: str = "",
    scheme: str = "http",
    zone: str | None = None,
    weight: float = 1.0,
    ttl: float = 10.0,
) -> int:
    """Register an instance and keep it registered until interrupted or terminated; then take it out.

    Parameters
    ----------
    url
        The registry.
    service
        The name of the service.
    port
        Where it listens.
    host
        The address that others can call.
    id
        Unique within the service; host:port unless given.
    scheme
        How to speak with it.
    zone
        Where it stands.
    weight
        Its share compared with its siblings.
    ttl
        Seconds for which the record outlives this process.
    """

    async def work() -> int:
        from seawall.discovery import Instance, Registry

        instance = Instance(service, host=host, port=port, id=id, scheme=scheme, zone=zone, weight=weight)
        registry = Registry.open(url)
        registry.subscribe(lambda event: print(event.kind, event.data.get("error", ""), file=sys.stderr, flush=True))
        over = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # on Windows an interrupt ends the loop instead
                asyncio.get_running_loop().add_signal_handler(number, over.set)
        async with registry.register(instance, ttl=ttl):
            print(f"{instance.id} is registered as {service}; interrupt to take it out", flush=True)
            await over.wait()
        return 0

    return _guarded(work)


def drain(url: str, service: str, id: str, /, *, undo: Flag = False) -> int:
    """Take an instance out of service: it is announced as draining, and its process takes the order over. Status 1: no such one.

    Parameters
    ----------
    url
        The registry.
    service
        The name of the service.
    id
        The instance, as `ls` shows it.
    undo
        Take it back into service.
    """

    async def work() -> int:
        state = "ready" if undo else "draining"
        if await _open(url).set_state(service, id, state):
            print(f"{service} {id} is {state}")
            return 0
        print(f"{service} has no instance {id!r}; `seawall registry ls {url} {service}` shows those it has", file=sys.stderr)
        return NO_ANSWER

    return _guarded(work)


def _open(url: str) -> Any:
    """A registry to look into: nothing is called, so every address may be seen."""
    from seawall.discovery import Registry

    return Registry.open(url, allow_loopback=True, allow_link_local=True)


def _guarded(work: Callable[[], Awaitable[int]]) -> int:
    """Run it; what a person did wrong is told in one line with status 2, a registry that does not answer with status 1."""
    from seawall.core.errors import MissingExtra, SeawallError
    from seawall.discovery.errors import ReadOnlyRegistry

    async def main() -> int:
        return await work()

    try:
        return asyncio.run(main())
    except (ValueError, TypeError, MissingExtra, ReadOnlyRegistry) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except TimeoutError:
        print("the registry does not answer", file=sys.stderr)
        return NO_ANSWER
    except SeawallError as error:
        print(error, file=sys.stderr)
        return NO_ANSWER
    except KeyboardInterrupt:
        return 0


def _row(one: Any) -> list[str]:
    return [one.service, one.id, one.state, one.url, one.zone or "-", f"{one.weight:g}", one.version or "-"]
