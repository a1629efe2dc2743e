"""The look at PostgreSQL: the only file of health that imports psycopg."""

from __future__ import annotations

import psycopg

from seawall.health.checks.probe import AsyncProbe


def probe(url: str) -> AsyncProbe:
    """Connect, ask for 1, and leave. Raises ValueError for a URL that cannot be read, without its text: it may hold a
    password.
    """
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError("target is no PostgreSQL URL; write postgresql://user@host:5432/database") from None

    async def look() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("SELECT 1")

    return AsyncProbe(look, kind="datastore")
