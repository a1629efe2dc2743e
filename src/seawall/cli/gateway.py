"""`seawall gateway FILE | render FILE | bootstrap FILE HOST | status FOLDER`: a real Envoy that follows a file and registries."""

from __future__ import annotations

import asyncio
import json as codec
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from seawall.cli import BAD_INPUT

BROKEN = 1
Flag = Annotated[bool, Parameter(negative=())]


def run(file: Path, /, *, folder: Path | None = None, access_log: Flag = False, json: Flag = False) -> int:
    """Run an Envoy as FILE says until interrupted; SIGHUP reads the file again. The exit status is 1 when Envoy cannot run, 2
    for a file that cannot be used.

    Parameters
    ----------
    file
        A gateway.toml.
    folder
        Where Envoy's files stand, and status.json for `seawall gateway status`; by default a temporary one.
    access_log
        Envoy writes access.log there, one JSON object per request, and each request is printed as an event.
    json
        Print events as JSON.
    """
    from seawall.core.errors import ConfigError, MissingExtra
    from seawall.core.events import Event
    from seawall.gateway import EnvoyBroken, Gateway

    def told(event: Event) -> None:
        data = {**event.data, **({} if event.took is None else {"took": event.took})}
        print(codec.dumps({"kind": event.kind, **data}, default=str) if json else f"{event.kind} {data}", flush=True)

    async def work() -> None:
        gateway = Gateway(file, folder=folder, access_log=access_log)
        gateway.subscribe(told)
        loop, stop, again = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        async with gateway:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            loop.add_signal_handler(signal.SIGHUP, again.set)
            reader = asyncio.create_task(_reload(gateway, again))
            await stop.wait()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    try:
        asyncio.run(work())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except (EnvoyBroken, MissingExtra, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return BROKEN
    return 0


async def _reload(gateway: Any, again: asyncio.Event) -> None:
    while True:
        await again.wait()
        again.clear()
        try:
            await gateway.reload()
        except ValueError as error:
            print(f"the last good configuration holds: {error}", file=sys.stderr)


def render(file: Path, /) -> int:
    """Print what Envoy would be told now, as JSON; a port that is chosen at the start stands as 0. The exit status is 2 for a
    file that cannot be used, 1 when a registry does not answer.

    Parameters
    ----------
    file
        A gateway.toml.
    """
    from seawall.core.errors import ConfigError
    from seawall.discovery import Registry, RegistryError, Snapshot
    from seawall.gateway import GatewayConfig
    from seawall.gateway.bootstrap import ADS_SOURCE
    from seawall.gateway.resources import TYPES, compute

    async def listed(config: GatewayConfig) -> dict[str, Snapshot]:
        return {name: await Registry.open(one.registry).list(one.service) for name, one in config.services.items()}

    try:
        config = GatewayConfig.read(file)
        snapshots = asyncio.run(listed(config))
        found = compute(config, snapshots, lambda _kind, _name: ADS_SOURCE, limits_port=config.limits.port)
    except (RegistryError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return BROKEN
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    print(codec.dumps({"version": found.version(), **{kind: list(found.of(kind).values()) for kind in TYPES}}, indent=1))
    return 0


def bootstrap(file: Path, host: str, /, *, node: str | None = None) -> int:
    """Print the first configuration of an Envoy on another machine, as JSON: `envoy -c` it there. The exit status is 2 for a file
    that cannot be used, or that does not say where such an Envoy would ask.

    Parameters
    ----------
    file
        A gateway.toml with control = "ads", xds_port, xds_tls and xds_client. The certificates of xds_client must stand at the
        same place there.
    host
        The name or address under which that machine reaches this gateway.
    node
        How that Envoy is called; by default after the file and the host of the gateway.
    """
    from seawall.core.errors import ConfigError
    from seawall.gateway import GatewayConfig
    from seawall.gateway.bootstrap import ADS_SOURCE
    from seawall.gateway.bootstrap import bootstrap as told

    try:
        config = GatewayConfig.read(file)
        if config.xds_client is None or config.xds_port == 0:
            raise ConfigError(
                "an Envoy elsewhere needs control = 'ads', an xds_port other than 0, [envoy.xds_tls] and [envoy.xds_client]",
                path=str(file),
            )
        found = told(config, lambda _kind, _name: ADS_SOURCE, port=config.xds_port, host=host, node=node)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    print(codec.dumps(found, indent=1))
    return 0


def status(folder: Path, /, *, json: Flag = False) -> int:
    """Say how the Envoy of a running gateway is. The exit status is 1 when it does not answer or refused a configuration.

    Parameters
    ----------
    folder
        The folder that `seawall gateway FILE --folder` was given.
    json
        Print JSON.
    """
    from seawall.gateway.admin import Admin
    from seawall.gateway.counters import FILTER, by_service, read

    try:
        known = codec.loads((folder / "status.json").read_text(encoding="utf-8"))
        admin = Admin(int((folder / "admin.txt").read_text(encoding="utf-8").rsplit(":", 1)[1]))
    except (OSError, ValueError, IndexError) as error:
        print(f"{folder} is no folder of a running gateway: {error}", file=sys.stderr)
        return BAD_INPUT

    async def asked() -> dict[str, Any]:
        return {
            "file": known["file"],
            "ready": await admin.ready(),
            "rejections": await admin.rejections(),
            "complaints": await admin.complaints(),
            "hosts": await admin.stats("membership_(healthy|total)$"),
            "counts": by_service(read(await admin.stats(FILTER))),
        }

    try:
        found = asyncio.run(asked())
    except (OSError, TimeoutError) as error:
        print(f"the admin port {admin.port} does not answer: {error}", file=sys.stderr)
        return BROKEN
    print(codec.dumps(found, indent=1) if json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return BROKEN if not found["ready"] or found["rejections"] else 0
