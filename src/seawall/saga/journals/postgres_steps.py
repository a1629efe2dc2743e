"""What a PostgreSQL journal does beside its batches: a step in a transaction, and an ear for wake-ups."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seawall.core.errors import SeawallError
from seawall.saga.errors import LeaseLost
from seawall.saga.journals import postgres_sql as sql
from seawall.saga.journals.limit import limited
from seawall.saga.port import Append

if TYPE_CHECKING:
    from seawall.saga.journals.postgres import Connection, PostgresJournal
    from seawall.saga.journals.postgres_tx import PostgresTx


def run_step(
    journal: PostgresJournal, fn: Callable[[PostgresTx], Any], append: Callable[[Any], Append], guard: Append, limit: float
) -> Any:
    """Check the fence, run the step's function, append its record, commit. Whatever is raised means that nothing was committed,
    except LeaseLost for a commit whose answer was lost: the saga is then loaded again, and its journal tells."""
    with journal.translated():
        connection = journal.connect()
    try:
        with journal.translated():
            connection.execute("BEGIN")
            journal.set_sync(connection, sync=True)
            connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = {max(1, int(limit * 1000))}")
            if not connection.execute(sql.HOLDS, (guard.id, guard.epoch, guard.owner, guard.after)).fetchone():
                raise LeaseLost(f"saga {guard.id} is not owned under epoch {guard.epoch} any more, or that lease is over")
        with limited(lambda: journal.cut(connection), limit):
            result = fn(journal.tx(connection))
        op = append(result)
        with journal.translated():
            lost = journal.append_one(connection, op)
        if lost is not None:
            raise lost
        _commit(journal, connection, guard)
        return result
    finally:
        connection.close()


def _commit(journal: PostgresJournal, connection: Connection, guard: Append) -> None:
    try:
        connection.execute("COMMIT")
    except Exception as error:
        if journal.retryable(error) and connection.closed:
            raise LeaseLost(
                f"the answer of a commit for saga {guard.id} was lost; its journal tells whether it was made"
            ) from error
        raise journal.translate(error) from error


class Ear(threading.Thread):
    """Listens until it is stopped, and comes back after every loss of its connection."""

    def __init__(self, journal: PostgresJournal, url: str, heard: Callable[[str], None]) -> None:
        super().__init__(name="seawall-listen", daemon=True)
        self._journal = journal
        self._url = url
        self._heard = heard
        self._over = threading.Event()
        self.losses = 0

    def run(self) -> None:
        """Listen."""
        while not self._over.is_set():
            try:
                with self._journal.translated():
                    self._listen()
            except (SeawallError, OSError):
                self.losses += 1
                self._over.wait(min(5.0, 0.1 * 2 ** min(self.losses, 6)))

    def _listen(self) -> None:
        with self._journal.connect(self._url) as connection:
            connection.execute(f"LISTEN {sql.CHANNEL}")
            self._heard("")  # what was said while nobody listened
            while not self._over.is_set():
                for notice in connection.notifies(timeout=0.25):
                    for saga in json.loads(notice.payload or "[]") or [""]:
                        self._heard(str(saga))

    def stop(self) -> None:
        """Stop within a moment."""
        self._over.set()
        self.join()
