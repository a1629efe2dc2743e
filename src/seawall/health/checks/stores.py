"""Checks of databases and Redis. The drivers are loaded when a check that needs one is made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seawall.health.checks.probe import AsyncProbe, Probe
from seawall.health.extras import load


def sql(target: Any) -> Probe | AsyncProbe:
    """Whether a database answers a query.

    target: "sqlite:///path" (the file is opened for reading, and must exist), "postgresql://…" (psycopg; one connection per
    run), or an SQLAlchemy Engine or AsyncEngine (one connection of its pool). Raises MissingExtra without the driver,
    ValueError for a URL of another scheme, TypeError for anything else.
    """
    if isinstance(target, str):
        scheme = target.partition("://")[0]
        if scheme == "sqlite":
            return _sqlite(target)
        if scheme in ("postgresql", "postgres"):
            probe: AsyncProbe = load("postgresql").probe(target)
            return probe
        raise ValueError(f"target must be sqlite:///path, postgresql://… or an engine; got the scheme {scheme!r}")
    if hasattr(target, "dialect") and hasattr(target, "connect"):
        engine: Probe | AsyncProbe = load("sqlalchemy").probe(target)
        return engine
    raise TypeError(f"target must be sqlite:///path, postgresql://… or an SQLAlchemy engine; got {type(target).__name__}")


def redis(target: Any) -> Probe | AsyncProbe:
    """Whether Redis answers PING. target: a URL such as "redis://localhost" (one connection per run), or a client, sync or async.

    Raises MissingExtra without redis-py, ValueError for a URL that redis-py cannot read, TypeError for anything else.
    """
    probe: Probe | AsyncProbe = load("redis").probe(target)
    return probe


def _sqlite(url: str) -> Probe:
    if not url.startswith("sqlite:///") or url in ("sqlite:///", "sqlite:///:memory:"):
        raise ValueError(f"target must name a file, as sqlite:///relative/path or sqlite:////absolute/path; got {url!r}")
    path = Path(url.removeprefix("sqlite:///"))

    def look() -> None:
        # mode=ro: a check must not make the file that it looks for; the query reads the header, which "SELECT 1" does not
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=0.5)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()

    return Probe(look, kind="datastore")
