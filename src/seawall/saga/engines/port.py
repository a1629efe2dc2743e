"""What an engine must do, what it may lack, and how a saga that needs more is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from seawall.saga.definition import Definition, describe
from seawall.saga.errors import NotOffered

if TYPE_CHECKING:
    from seawall.saga.operate import Word
    from seawall.saga.port import Row, Start, Started

# What our own journals offer and an engine may lack, with what to say about it.
CAPABILITIES: Final = {
    "tx_steps": "tx=True steps: the engine's records are not in the database that holds your rows",
    "tx_start": "starting inside your own transaction: the engine is another system; write an outbox row and start from there",
    "locks": "semantic locks: there is no table that all sagas of the engine could share",
    "subsagas": "sagas as steps: a saga that has ended there cannot be taken back later",
    "dynamic": "sagas.open: an engine runs what it was given, and nobody could run the block",
    "durability": 'durability other than "strict": the engine decides when it writes',
    "archive": "archive: how long ended sagas are kept is the engine's own setting",
    "unique_ids": "ids that stay unique for ever: they are unique for as long as the engine keeps ended sagas",
    "large_payloads": "payloads above the engine's limit; store them elsewhere and keep a reference",
    "branches": "branches that do not wait for each other: steps that may run together start and end together",
    "moves": "moving a saga in flight to another version",
    "sync": "start_sync and result_sync: the engine's client needs a loop",
    "hooks": "hooks and inline commits: there is no committer of ours to hook into",
}


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine answers. status: "pass" or "fail". output: why it does not, or what it is."""

    status: str
    output: str


class Engine(Protocol):
    """An engine that holds sagas and has its workers run them. Ids are those of `Row.id`, moments seconds since 1970."""

    name: str
    capabilities: frozenset[str]
    largest: int

    async def open(self) -> None:
        """Connect. Raises JournalMissing when the engine cannot be reached."""
        ...

    async def close(self) -> None:
        """Let go of everything; sagas under way get their grace."""
        ...

    async def run_worker(self) -> None:
        """Begin to run the sagas that were given; returns once they can run."""
        ...

    async def start(self, start: Start, brief: dict[str, Any]) -> Started:
        """Start a saga, or find the one with this id."""
        ...

    async def find(self, id: str, name: str | None) -> Row:
        """A saga by its own id or by the user's, with its records where they can be had. Raises UnknownSaga."""
        ...

    async def end(self, id: str) -> Row:
        """Wait until a saga has ended or is stuck."""
        ...

    async def signal(self, id: str, name: str, payload: str | None, signal_id: str | None) -> bool:
        """Hand a signal to a saga; False when this signal_id came before."""
        ...

    async def operate(self, row: Row, word: Word, definition: Definition | None) -> Row:
        """Carry out an operator's word, cancel among them. Raises NotAllowed."""
        ...

    async def list(self, name: str | None, statuses: Iterable[str], limit: int) -> list[Row]:
        """The newest sagas, without their records."""
        ...

    async def health(self) -> Health:
        """Whether the engine answers now."""
        ...


def refuse(engine: str, capability: str, who: str) -> NotOffered:
    """The error for something that an engine lacks."""
    return NotOffered(f"{who} needs {capability!r}, which {engine} does not offer: no {CAPABILITIES[capability]}")


def check(engine: str, offered: frozenset[str], definition: Definition) -> None:
    """Raises NotOffered for the first thing in a definition that the engine lacks, naming saga and step."""
    for step in definition.steps.values():
        where = f"{definition.name}: step {step.name!r}"
        if step.options.tx and "tx_steps" not in offered:
            raise refuse(engine, "tx_steps", where)
        if step.options.locks is not None and "locks" not in offered:
            raise refuse(engine, "locks", where)
        if step.kind == "saga" and "subsagas" not in offered:
            raise refuse(engine, "subsagas", where)


def check_settings(engine: str, offered: frozenset[str], largest: int, limit: int, settings: dict[str, Any]) -> None:
    """Raises NotOffered for a setting of `Sagas` that the engine lacks."""
    if settings.get("durability", "strict") != "strict" and "durability" not in offered:
        raise refuse(engine, "durability", f"durability={settings['durability']!r}")
    for name in ("hooks", "inline"):
        if settings.get(name) and "hooks" not in offered:
            raise refuse(engine, "hooks", f"{name}=")
    if settings.get("archive_after") is not None and "archive" not in offered:
        raise refuse(engine, "archive", "archive_after=")
    if largest > limit and "large_payloads" not in offered:
        raise refuse(engine, "large_payloads", f"largest={largest} (the limit there is {limit} bytes)")


_plans: dict[str, dict[str, Any]] = {}


def plan_of(definition: Definition) -> dict[str, Any]:
    """What a saga's interpreter must know of the definition: plain data, kept with the saga, so it needs no code of yours."""
    found = _plans.get(definition.hash)
    if found is None:
        waits = {
            step.name: {key: step.extra.get(key) for key in ("signal", "length")}
            for step in definition.steps.values()
            if step.kind in ("sleep", "signal")
        }
        output = "function" if definition.has_output else "none" if definition.output_type is type(None) else "last"
        graph = json.dumps(describe(definition.name, definition.version, definition.graph), sort_keys=True)
        found = {"graph": graph, "waits": waits, "last": definition.last, "output": output}
        if len(_plans) < 10_000:
            _plans[definition.hash] = found
    return found


def brief_of(start: Start, definition: Definition, lease: float, now: float) -> dict[str, Any]:
    """What a saga is started with on an engine."""
    return {
        **plan_of(definition), "uid": start.id, "id": start.user_id, "name": start.name, "version": start.version,
        "hash": start.hash, "input": start.input, "lease": lease, "created": now,
        "deadline": None if start.deadline is None else now + start.deadline,
    }  # fmt: skip
