"""Sagas inside sagas: started under the step's key, awaited, and taken back as one step."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from seawall.saga import operate, store
from seawall.saga.errors import UnknownSaga
from seawall.saga.plan import TERMINAL
from seawall.saga.port import Row, Start, Tx, Verb

if TYPE_CHECKING:
    from seawall.saga.act import Act
    from seawall.saga.context import Context


def _find(tx: Tx, key: str) -> Row | None:
    try:
        return store.find(tx, key)
    except UnknownSaga:
        return None


async def child_result(act: Act, context: Context) -> Row | None:
    """The inner saga if it has ended."""
    key = context.undoes or context.key
    row: Row | None = await act.host.read(lambda tx: _find(tx, key))
    return row if row is not None and row.status in TERMINAL else None


async def start_child(act: Act, context: Context) -> Row | None:
    """Start the inner saga, unless it was started; nothing has ended by that."""
    runner, host = act.runner, act.host
    definition = host.child_of(act.step.extra["saga"])
    value = act.step.extra["make"](runner.saga, context, runner.input)
    what = f"the input of {definition.name}"
    await host.committer.send(
        Start(
            uuid.uuid4().hex, definition.name, definition.version, definition.hash, context.key,
            host.codec.fingerprint(value, what), host.codec.write(value, what), definition.deadline, parent=runner.row.id,
        )
    )  # fmt: skip
    host.kick()
    return None


async def take_back(act: Act, context: Context) -> str | None:
    """Take the inner saga back; how it ended, or None while it has not."""
    key = context.undoes or context.key

    def back(tx: Tx) -> str | None:
        row = _find(tx, key)
        if row is None:
            return "failed"
        if row.status in TERMINAL and row.status != "completed":
            return row.status
        if row.status == "completed" or not any(record.phase == "turn" for record in row.records):
            operate.turn(tx, row, "backward", "the saga around it goes back")
        return None

    status: str | None = await act.host.committer.send(Verb(back))
    act.host.kick()
    return status
