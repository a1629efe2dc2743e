"""One transaction of a PostgreSQL journal, in the SQL that every journal understands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from seawall.saga.journals import postgres_sql as sql
from seawall.saga.journals.schema import outbox

if TYPE_CHECKING:
    from seawall.saga.journals.postgres import Connection

LOCKING: Final = 0x5EA_10C6  # the advisory lock while semantic locks change hands


class PostgresTx:
    """One transaction, or one snapshot."""

    __slots__ = ("_moment", "_reading", "connection", "woken")

    def __init__(self, connection: Connection, *, reading: bool = False) -> None:
        self.connection = connection
        self.woken: list[str] = []
        self._reading = reading
        self._moment: float | None = None

    def execute(self, text: str, parameters: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for values; its rows."""
        cursor = self.connection.execute(sql.dialect(text), parameters)
        return cursor.fetchall() if cursor.description is not None else []

    def now(self) -> float:
        """The database's moment."""
        if self._moment is None:
            self._moment = float(self.execute(f"SELECT {sql.NOW}")[0][0]) - time.monotonic()
        return self._moment + time.monotonic()

    def wake(self, saga: str) -> None:
        """Told to the other processes once this has committed."""
        self.woken.append(saga)

    def living(self) -> list[str]:
        """The workers whose moment has not come."""
        return [name for (name,) in self.execute(f"SELECT id FROM saga_worker WHERE until > {sql.NOW}")]

    def lock_rows(self, *, skip: bool = False) -> str:
        """Rows stay as they are until this has committed; in a snapshot they do anyway."""
        return "" if self._reading else " FOR UPDATE SKIP LOCKED" if skip else " FOR UPDATE"

    def lock_locks(self) -> None:
        """One transaction at a time hands semantic locks over."""
        self.execute(f"SELECT pg_advisory_xact_lock({LOCKING})")

    def publish(self, topic: str, key: str, kind: str, payload: Any) -> str:
        """Put an event into the outbox."""
        return outbox(self, topic, key, kind, payload)
