"""Parts of health that need a driver, by a table of names, so that a missing one is told with the line that installs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from seawall.core.errors import MissingExtra

PARTS: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    "grpc": ("seawall.health.grpc_health", ("grpc", "grpc_health"), "grpc"),
    "redis": ("seawall.health.checks.with_redis", ("redis",), "redis"),
    "postgresql": ("seawall.health.checks.with_psycopg", ("psycopg",), "postgres"),
    "sqlalchemy": ("seawall.health.checks.with_sqlalchemy", ("sqlalchemy",), "sqlalchemy"),
}


def load(part: str) -> Any:
    """The module of a part. Raises MissingExtra when its driver is not installed; any other ImportError passes unchanged."""
    place, drivers, extra = PARTS[part]
    try:
        return import_module(place)
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.partition(".")[0] in drivers:
            raise MissingExtra(f'health needs {missing.name} for {part}: pip install "seawall[{extra}]"') from missing
        raise
