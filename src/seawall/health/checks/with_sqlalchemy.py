"""The look at a database through SQLAlchemy: the only file of health that imports it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from seawall.health.checks.probe import AsyncProbe, Probe


def probe(engine: Any) -> Probe | AsyncProbe:
    """Ask for 1 on a connection of the engine's pool. Raises TypeError for what is no engine."""
    if isinstance(engine, AsyncEngine):
        return AsyncProbe(lambda: _look_async(engine), kind="datastore")
    if isinstance(engine, Engine):
        return Probe(lambda: _look(engine), kind="datastore")
    raise TypeError(f"target must be an SQLAlchemy Engine or AsyncEngine; got {type(engine).__name__}")


def _look(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


async def _look_async(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
