"""A saga on an engine as the row that journals have, so that everything that shows sagas shows these too."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

from seawall.saga.engines.port import plan_of
from seawall.saga.plan import TERMINAL, Record
from seawall.saga.port import Row, Start

if TYPE_CHECKING:
    from seawall.saga.definition import Definition
    from seawall.saga.operate import Word

_BROKEN: Final = ("TERMINATED", "CANCELED", "TIMED_OUT")


def row_of(described: Any, memo: dict[str, Any]) -> Row:
    """What Temporal itself knows of a saga: its description, and the memo that the saga was started with and has changed."""
    told, state = memo.get("seawall", {}), memo.get("seawall_status", {})
    known = described.status.name if described.status is not None else "RUNNING"
    status = {"COMPLETED": "completed", "RUNNING": state.get("status", "running")}.get(known, state.get("status", "failed"))
    row = bare_row(described.id, told.get("id", described.id), told.get("name", ""), "stuck" if known in _BROKEN else status)
    row.version, row.hash, row.error = told.get("version", 0), told.get("hash", ""), state.get("error")
    row.created, row.tags, row.input_hash = told.get("created", 0.0), told.get("tags"), told.get("input_hash", "")
    row.updated = described.close_time.timestamp() if described.close_time else row.created
    return row


def row_of_attributes(status: Any) -> Row:
    """What DBOS knows of a saga without its history: its status, with the attributes that it was started with and has changed."""
    memo = status.attributes or {}
    told, state = memo.get("seawall", {}), memo.get("seawall_status", {})
    end = status.output or {}
    known = end.get("status", "completed") if status.status == "SUCCESS" else state.get("status", "running")
    row = bare_row(status.workflow_id, told.get("id", status.workflow_id), told.get("name", ""), known)
    row.version, row.hash = told.get("version", 0), end.get("hash", told.get("hash", ""))
    row.output, row.error = end.get("output"), end.get("error", state.get("error"))
    if status.status not in ("SUCCESS", "PENDING", "ENQUEUED", "DELAYED"):
        row.status = "stuck"
        row.error = f"{status.status.lower()} in DBOS, so nothing more is taken back: {status.error or 'somebody ended it there'}"
    row.created, row.tags, row.input_hash = told.get("created", 0.0), told.get("tags"), told.get("input_hash", "")
    row.updated = (status.updated_at or 0) / 1000
    return row


def memo_of(start: Start, brief: dict[str, Any]) -> dict[str, Any]:
    """What is kept beside a saga for those who list."""
    told = {key: getattr(start, key) for key in ("name", "version", "hash", "input_hash", "tags")}
    return {"seawall": {**told, "uid": start.id, "id": start.user_id, "created": brief["created"]}}


def said_of(word: Word, definition: Definition | None, queue: str) -> dict[str, Any]:
    """An operator's word as it is sent, with the plan of the version to move to."""
    said: dict[str, Any] = {key: getattr(word, key) for key in ("verb", "step", "value", "actor", "reason")}
    if definition is not None:
        said["plan"] = {**plan_of(definition), "version": definition.version, "hash": definition.hash, "queue": queue}
    return {**said, "token": uuid.uuid4().hex}


def with_look(row: Row, told: dict[str, Any]) -> Row:
    """A row with what the saga itself says."""
    row.records = [Record(*line) for line in told["records"]]
    row.epoch, row.error = told["epoch"], told["error"] or row.error
    row.graph, row.deadline = told["graph"], told["deadline"]
    row.notes = json.dumps(told["notes"]) if told["notes"] else None
    if row.status not in TERMINAL:
        row.status = told["status"]
    row.updated = max([row.updated, *(record.ended for record in row.records)])
    return row


def bare_row(id_: str, user_id: str, name: str, status: str) -> Row:
    """A row of which no more is known."""
    return Row(
        id=id_, name=name, version=0, hash="", user_id=user_id, input=None, status=status, epoch=1, owner=None, wake_at=None,
        deadline=None, parent=None, notes=None, takeovers=0, cancel=None, output=None, error=None, created=0.0, updated=0.0,
    )  # fmt: skip
