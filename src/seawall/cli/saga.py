"""`seawall saga worker | ls | show | why | diff`: run sagas, and look at them."""

from __future__ import annotations

import asyncio
import json as codec
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from seawall.cli.saga_telling import Flag, Url, as_dict, guarded, look_at, read_journal, row_as_dict, rows_of, sagas_of, tell
from seawall.cli.table import clean, table

UNSAFE = 1
Status = Literal[
    "pending", "running", "waiting", "compensating", "stuck", "completed", "compensated", "compensated_partially", "failed"
]


def worker(
    url: str,
    module: str,
    /,
    *,
    durability: Literal["strict", "edges", "relaxed"] = "strict",
    lease: str = "10s",
    running: int = 100,
    json: Flag = False,
) -> int:
    """Run sagas until SIGTERM or SIGINT, then hand over what is in hand.

    Parameters
    ----------
    url
        The journal, such as sqlite:///orders.db or postgresql://host/db.
    module
        Where the sagas are: `shop.sagas:build` is a function without parameters that returns instances of Saga classes, or a list
        of them.
    durability
        What is synced: strict = every commit, edges, relaxed.
    lease
        After how long a frozen worker's sagas are taken over.
    running
        Sagas in memory at once.
    json
        Print what happens to sagas as lines of JSON: when it is ready, then every event.
    """

    async def work() -> int:
        from seawall.saga import Sagas

        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        sagas = sagas_of(module)
        async with Sagas(url, sagas, durability=durability, lease=lease, running=running) as open_:
            names = sorted({f"{one.definition.name} v{one.definition.version}" for one in sagas})
            say = _say_json if json else _say
            say("saga.worker_ready", f"worker {open_.worker_id} runs {', '.join(names)}", worker=open_.worker_id, sagas=names)
            if json:
                open_.subscribe(lambda event: _say_json(event.kind, "", name=event.policy, data=dict(event.data)))
            await ended.wait()
            say("saga.worker_leaving", "handing over", worker=open_.worker_id)
        return 0

    return guarded(lambda: asyncio.run(work()))


def _say(kind: str, text: str, **data: Any) -> None:  # noqa: ARG001  # the twin of _say_json
    print(text, flush=True)


def _say_json(kind: str, text: str, **data: Any) -> None:  # noqa: ARG001  # the twin of _say
    print(codec.dumps({"at": time.time(), "kind": kind, **data}, default=str), flush=True)


def ls(*, url: Url, status: list[Status] | None = None, name: str | None = None, limit: int = 50, json: Flag = False) -> int:
    """List the newest sagas of a journal.

    Parameters
    ----------
    url
        The journal; also SEAWALL_SAGAS.
    status
        Only those in this status; may be given more than once.
    name
        Only the sagas of this name.
    limit
        How many at most.
    json
        Print JSON.
    """
    from seawall.saga.look import length

    def act() -> int:
        rows = rows_of(url, statuses=status or (), name=name, limit=limit)
        if json:
            print(codec.dumps([row_as_dict(row) for row in rows], indent=1))
            return 0
        now = time.time()
        lines = [("name", "id", "status", "age", "what")]
        lines += [
            (row.name, row.user_id, row.status, length(max(0.0, now - row.created)), (row.error or "")[:80]) for row in rows
        ]
        table(lines)
        return 0

    return guarded(act)


def show(id: str, /, *, url: Url, name: str | None = None, payloads: Flag = False, json: Flag = False) -> int:
    """Show one saga with its journal, line by line.

    Parameters
    ----------
    id
        Of the saga, as it was started.
    url
        The journal; also SEAWALL_SAGAS.
    name
        The saga's name, where one id belongs to several.
    payloads
        Show its input and its results too. They may hold what is not for every eye.
    json
        Print JSON.
    """

    def act() -> int:
        seen = look_at(url, id, name)
        if json:
            print(codec.dumps(as_dict(seen, payloads=payloads), indent=1))
            return 0
        tell(seen, payloads=payloads)
        return 0

    return guarded(act)


def why(id: str, /, *, url: Url, name: str | None = None, json: Flag = False) -> int:
    """Say in words what a saga waits for, what happens next, and what a human can do.

    Parameters
    ----------
    id
        Of the saga, as it was started.
    url
        The journal; also SEAWALL_SAGAS.
    name
        The saga's name, where one id belongs to several.
    json
        Print JSON.
    """
    from seawall.saga.look import why as reasons

    def act() -> int:
        seen = look_at(url, id, name)
        told = reasons(seen)
        if json:
            print(codec.dumps({"id": id, "name": seen.row.name, "status": seen.row.status, "why": told}, indent=1))
        else:
            print("\n".join([f"{seen.row.name} {clean(seen.row.user_id)} is {seen.row.status}.", *map(clean, told)]))
        return 0

    return guarded(act)


def diff(module: str, /, *, url: Url, json: Flag = False) -> int:
    """Hold the definitions of a module against the sagas in flight that run by others: which may go on by the new one, and which
    cannot. The exit status is 1 when there are any that cannot.

    Parameters
    ----------
    module
        Where the sagas are, as for `worker`.
    url
        The journal; also SEAWALL_SAGAS.
    json
        Print JSON.
    """
    from seawall.saga.look import moving

    def act() -> int:
        definitions = [saga.definition for saga in sagas_of(module)]
        found = [each for d in definitions for each in read_journal(url, _mover(moving, d))]
        if json:
            print(codec.dumps([asdict(each) for each in found], indent=1))
        for each in () if json else found:
            print(f"{each.name} version {each.was} -> {each.version}: {each.safe} in flight may move, {len(each.unsafe)} may not")
            for change in each.changes:
                print(f"  {change.step}: {change.what}")
            for id, reason in each.unsafe.items():
                print(f"  {clean(id)} stays: {clean(reason)}")
        if not found and not json:
            print("Nothing in flight runs by another definition.")
        return UNSAFE if any(each.unsafe for each in found) else 0

    return guarded(act)


def _mover(moving: Callable[..., Any], definition: Any) -> Callable[[Any], Any]:
    return lambda tx: moving(tx, definition.name, definition.version, definition.hash, definition.graph)
