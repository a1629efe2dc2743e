"""What the rest of the room needs of a database, and the table of databases."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final, Protocol, TypeVar

from seawall.choreography.errors import ChoreographyError
from seawall.core.errors import MissingExtra

T = TypeVar("T")
STORES: Final = {
    "sqlite": ("seawall.choreography.stores.sqlite:SqliteStore", ""),
    "postgresql": ("seawall.choreography.stores.postgres:PostgresStore", "postgres"),
    "postgres": ("seawall.choreography.stores.postgres:PostgresStore", "postgres"),
}
now = time.time


class Session(Protocol):
    """One transaction. connection: the driver's own, on which handlers work; do not commit, roll back or close it."""

    connection: Any

    async def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for values; its rows."""
        ...

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a plain function that works on the connection, where it holds nobody up."""
        ...


class Store(Protocol):
    """One database. kind: "sqlite" or "postgresql"."""

    kind: str

    def transaction(self) -> contextlib.AbstractAsyncContextManager[Session]:
        """One transaction: committed at the end, rolled back on any error."""
        ...

    async def open(self) -> None:
        """Connect and make the tables that are missing. Raises ChoreographyError."""
        ...

    async def lead(self) -> bool:
        """Whether this process is the one that relays; asks again each time."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


async def finish(work: Callable[[], T]) -> T:
    """Run in a thread and wait for its end even when cancelled: a half-known BEGIN or COMMIT would poison the connection."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def open_store(url: str) -> Store:
    """The store of a URL. Raises ChoreographyError for a scheme that is not known, MissingExtra for a missing driver."""
    scheme = url.partition(":")[0]
    if scheme not in STORES:
        raise ChoreographyError(f"store must be sqlite:///FILE or postgresql://HOST/DATABASE; got {scheme!r} as its scheme")
    place, extra = STORES[scheme]
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise MissingExtra(f'a store on {scheme}: needs a driver: pip install "seawall[{extra}]"') from error
    store: Store = found(url)
    return store
