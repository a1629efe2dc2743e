"""The driver's own connection below what callers have in their hands: SQLAlchemy sessions and connections are unwrapped."""

from __future__ import annotations

from typing import Any


def driver_of(connection: Any) -> Any:
    """Of a SQLAlchemy session or connection; anything else is given back as it is."""
    if hasattr(connection, "get_bind") and hasattr(connection, "connection"):
        connection = connection.connection()
    return connection.connection.driver_connection if hasattr(connection, "exec_driver_sql") else connection


async def adriver_of(connection: Any) -> Any:
    """The same for the asynchronous ones too."""
    if hasattr(connection, "sync_session"):
        connection = await connection.connection()
    if hasattr(connection, "get_raw_connection"):
        return (await connection.get_raw_connection()).driver_connection
    return driver_of(connection)
