"""What DBOS's tables tell of sagas: asked through its client, and told again from their histories."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from seawall.saga.engines.rows import row_of_attributes, with_look
from seawall.saga.engines.waves import retell
from seawall.saga.errors import JournalMissing, SagaError, UnknownSaga
from seawall.saga.port import Row

TYPE: Final = "seawall-saga"
TOPIC: Final = "seawall"
RECEIVE: Final = "DBOS.recv"


class Tables:
    """client: a `DBOSClient`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def status(self, id_: str, *, whole: bool = False) -> Any:
        """Raises UnknownSaga. whole: with its input."""
        found = await asked(self.client.list_workflows_async(workflow_ids=[id_], load_input=whole))
        if not found:
            raise UnknownSaga(f"no saga {id_!r} in DBOS's tables")
        return found[0]

    async def received(self, id_: str) -> int:
        """How many messages a saga has taken."""
        return sum(step["function_name"] == RECEIVE for step in await asked(self.client.list_workflow_steps_async(id_)))

    async def row(self, id_: str) -> Row:
        """With all that its history tells."""
        status = await self.status(id_, whole=True)
        return with_look(row_of_attributes(status), await self.retell(status))

    async def retell(self, status: Any) -> dict[str, Any]:
        """What the saga of a status with its input would say of itself."""
        brief = status.input["args"][0] if status.input else {}
        steps = await asked(self.client.list_workflow_steps_async(status.workflow_id))
        acts = [(step["function_name"], step["output"]) for step in steps if isinstance(step["output"], dict)]
        messages = [step["output"] for step in steps if step["function_name"] == RECEIVE]
        return await retell(brief, [act for act in acts if act[0] != RECEIVE], messages)

    async def find(self, id: str, name: str | None, known: Iterable[str]) -> Row:
        """By the user's id or the whole one, first among the names that are known here. Raises UnknownSaga."""
        for each in [name] if name is not None else known:
            with contextlib.suppress(UnknownSaga):
                return await self.row(f"{id}/{each}")
        question = self.client.list_workflows_async(name=TYPE, workflow_id_prefix=id, limit=100, load_input=False)
        for found in await asked(question):
            told = (found.attributes or {}).get("seawall", {})
            if id in (told.get("id"), found.workflow_id) and name in (None, told.get("name")):
                return await self.row(found.workflow_id)
        raise UnknownSaga(f"no saga {id!r}" + (f" of {name}" if name else "") + " in DBOS's tables")

    async def send(self, id_: str, said: dict[str, Any]) -> None:
        """Kept until the saga reads it."""
        await asked(self.client.send_async(id_, said, TOPIC))

    async def note(self, id_: str, said: dict[str, Any]) -> None:
        """Change what is kept beside a saga."""
        await asked(self.client.update_workflow_attributes_async(id_, said, merge=True))

    async def list(self, name: str | None, statuses: Iterable[str], limit: int) -> list[Row]:
        """The newest first, page after page until there are enough."""
        found: list[Row] = []
        wanted, offset, page = set(statuses), 0, max(100, limit)
        while len(found) < limit:
            question = self.client.list_workflows_async(name=TYPE, sort_desc=True, load_input=False, limit=page, offset=offset)
            each = await asked(question)
            rows = [row_of_attributes(status) for status in each]
            found += [row for row in rows if name in (None, row.name) and (not wanted or row.status in wanted)]
            offset += page
            if len(each) < page:
                break
        return found[:limit]


async def asked(question: Awaitable[Any]) -> Any:
    """What DBOS's tables answer. Raises JournalMissing when they do not."""
    try:
        return await question
    except SagaError:
        raise
    except Exception as failed:  # whatever its driver raises
        raise JournalMissing(f"DBOS's tables do not answer: {first_line(failed)}") from failed


def first_line(failed: Exception) -> str:
    """What a driver says, without the statement that it says it of."""
    return f"{type(failed).__name__}: {str(failed).partition(chr(10))[0]}"
