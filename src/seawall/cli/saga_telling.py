"""What the commands about sagas share: how a journal is read, how a saga is told, and how mistakes are."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from seawall.cli import BAD_INPUT
from seawall.cli.table import bar, clean, table

if TYPE_CHECKING:
    from seawall.saga.look import Look
    from seawall.saga.port import Journal, Row

T = TypeVar("T")
Url = Annotated[str, Parameter(env_var="SEAWALL_SAGAS")]
Flag = Annotated[bool, Parameter(negative=())]


def read_journal(url: str, run: Callable[[Any], Any]) -> Any:
    """Run queries on a journal that is there. Raises ValueError or JournalError."""
    journal = found_journal(url)
    journal.open()
    try:
        return journal.read(run)
    finally:
        journal.close()


def found_journal(url: str) -> Journal:
    """The journal of a URL. Looking must not make one: a slip in a path would look like an empty one. Raises ValueError."""
    from seawall.saga.journals import open_journal

    journal = open_journal(url)
    if not journal.there():
        raise ValueError(f"there is no journal at {shown(url)}; look at --url, or start the service that keeps it")
    return journal


def shown(url: str) -> str:
    """A URL without its password."""
    return re.sub(r"(://[^/@:]*):[^@/]*@", r"\1:***@", url)


def on_engine(url: str, ask: Callable[[Any], Awaitable[T]]) -> T:
    """Ask the engine of others that a URL names."""
    from seawall.saga import Sagas

    async def work() -> T:
        async with Sagas(url, name="operator", worker=False) as sagas:
            return await ask(sagas)

    return asyncio.run(work())


def rows_of(url: str, *, statuses: Sequence[str], name: str | None, limit: int) -> list[Row]:
    """The newest sagas of a journal, or of an engine."""
    from seawall.saga.engines import engine_path
    from seawall.saga.look import listed

    if engine_path(url) is not None:
        return on_engine(url, lambda sagas: sagas.list(name=name, statuses=statuses, limit=limit))
    found: list[Row] = read_journal(url, lambda tx: listed(tx, statuses=statuses, name=name, limit=limit))
    return found


def look_at(url: str, id: str, name: str | None) -> Look:
    """One saga whole. Raises UnknownSaga."""
    from seawall.saga.engines import engine_path
    from seawall.saga.look import look, look_of

    if engine_path(url) is not None:
        return look_of(on_engine(url, lambda sagas: sagas.engine.find(id, name)), time.time())
    seen: Look = read_journal(url, lambda tx: look(tx, id, name))
    return seen


def sagas_of(module: str) -> list[Any]:
    """The sagas that `module:attribute` holds or returns. Raises ValueError."""
    from seawall.saga import Saga

    path, _, attribute = module.partition(":")
    sys.path.insert(0, "")  # where the command was given, as `python -m` has it
    try:
        found = getattr(importlib.import_module(path), attribute or "sagas")
    except (ImportError, AttributeError) as error:
        raise ValueError(f'module must be like "shop.sagas:build"; {error}') from error
    finally:
        sys.path.pop(0)
    made = found() if callable(found) else found
    sagas = list(made) if isinstance(made, (list, tuple)) else [made]
    if not sagas or not all(isinstance(saga, Saga) for saga in sagas):
        raise ValueError(f"{module} must hold, or return, a list of instances of Saga classes; got {made!r:.200}")
    return sagas


def tell(seen: Look, *, payloads: bool) -> None:
    """Print one saga with its journal, line by line."""
    row, facts = seen.row, seen.facts
    print(f"{row.name} v{row.version}  {clean(row.user_id)}  {row.status}{f': {clean(row.error)}' if row.error else ''}")
    print(f"began {moment(row.created)}, changed {moment(row.updated)}, epoch {row.epoch}, owner {row.owner or 'nobody'}")
    if payloads:
        print(f"input  {clean(row.input or '')}\noutput {clean(row.output or '')}")
    lines = [("line", "at", "took", "when", "step", "what", "outcome", "attempt", "error")]
    for record in row.records:
        began = record.started or record.ended
        took, when = f"{max(0.0, record.ended - began):.2f} s", bar(began, record.ended, row.created, row.updated)
        outcome = record.outcome + (f" = {clean(record.result)}" if payloads and record.result is not None else "")
        error = clean(record.error or "")
        ended = moment(record.ended)
        lines.append((str(record.seq), ended, took, when, record.step, record.phase, outcome, str(record.attempt), error))
    table(lines)
    waiting = [name for name in (seen.graph.by_name if seen.graph is not None else ()) if name not in facts.done]
    if waiting:
        print(f"not done: {', '.join(waiting)}")
    for said in seen.said:
        step = f" {said.step}" if said.step else ""
        print(f"{moment(said.at)} {clean(said.actor)}: {said.verb}{step}: {clean(said.reason)}")


def as_dict(seen: Look, *, payloads: bool) -> dict[str, Any]:
    """One saga with its journal, for JSON."""
    hidden = () if payloads else ("result",)
    lines = [{key: value for key, value in asdict(record).items() if key not in hidden} for record in seen.row.records]
    return {
        **row_as_dict(seen.row, payloads=payloads),
        "steps": lines,
        "not_done": [name for name in (seen.graph.by_name if seen.graph is not None else ()) if name not in seen.facts.done],
        "operators": [asdict(said) for said in seen.said],
    }


def row_as_dict(row: Row, *, payloads: bool = False) -> dict[str, Any]:
    """A saga's row, for JSON."""
    shown = ("name", "version", "status", "error", "owner", "epoch", "created", "updated", "deadline", "wake_at", "takeovers")
    told: dict[str, Any] = {"id": row.user_id, "saga": row.id, **{name: getattr(row, name) for name in shown}}
    if payloads:
        told |= {"input": row.input, "output": row.output}
    return told


def moment(seconds: float) -> str:
    """A moment as a clock on the wall shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def guarded(act: Callable[[], int]) -> int:
    """Run a command; what the journal or the user did wrong is told on stderr."""
    from seawall.core.errors import SeawallError

    try:
        return act()
    except (SeawallError, ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
