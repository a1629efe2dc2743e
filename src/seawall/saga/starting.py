"""What `Sagas` checks before it starts one, and what it shows of itself."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SagasSnapshot:
    """One `Sagas` at one moment. running: sagas in memory here. taken_over, fenced, rejoined: since it was opened. The rest is of
    the committer: batches, operations in them, commits sent again, the longest commit in seconds."""

    kind: str
    name: str
    worker: str | None
    running: int
    taken_over: int
    fenced: int
    rejoined: int
    batches: int
    ops: int
    resent: int
    longest_commit: float


def tags_text(tags: dict[str, str] | None) -> str | None:
    """A saga's tags as they are stored. Raises ValueError for too many."""
    if not tags:
        return None
    if len(tags) > 20 or any(not isinstance(part, str) or len(part) > 200 for item in tags.items() for part in item):
        raise ValueError(f"tags must be at most 20 pairs of text of at most 200 characters; got {tags!r:.200}")
    return json.dumps(tags, sort_keys=True)


def check_id(id: Any) -> None:
    """Raises ValueError for what cannot be a saga's id."""
    if not isinstance(id, str) or not 1 <= len(id) <= 200 or not id.isprintable():
        raise ValueError(f"id must be text of 1 to 200 printable characters; got {id!r:.250}")


def is_local(connection: Any) -> bool:
    """Whether a connection belongs to the thread that made it."""
    return isinstance(connection, sqlite3.Connection)
