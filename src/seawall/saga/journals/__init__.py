"""The databases that hold sagas, each in one file that is reached by the scheme of its URL."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.core.errors import MissingExtra
from seawall.saga.port import Journal

JOURNALS: Final = {
    "sqlite": ("seawall.saga.journals.sqlite:SqliteJournal", ""),
    "postgresql": ("seawall.saga.journals.postgres:PostgresJournal", "postgres"),
    "postgres": ("seawall.saga.journals.postgres:PostgresJournal", "postgres"),
}
GROUP: Final = "seawall.saga.journals"


def open_journal(url: str, clock: Clock | None = None, **options: Any) -> Journal:
    """The journal that a URL names. Raises ValueError for an unknown scheme, MissingExtra for a driver that is not installed."""
    scheme, found, rest = url.partition("://")
    if not found:
        raise ValueError(f'url must read like "sqlite:///orders.db" or "postgresql://host/db"; got {url!r}')
    known = dict(JOURNALS)
    if scheme not in known:  # reading what is installed takes as long as opening a file
        known |= {point.name: (point.value, "") for point in importlib.metadata.entry_points(group=GROUP)}
    if scheme not in known:
        raise ValueError(f"url must begin with one of {', '.join(sorted(known))}; got {scheme!r}")
    path, extra = known[scheme]
    module, _, name = path.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("seawall"):
            raise
        raise MissingExtra(f'{scheme}:// needs a driver: pip install "seawall[{extra}]"') from error
    if scheme == "sqlite":
        if not rest.startswith("/") or len(rest) < 2:
            raise ValueError(f'url of a file must read like "sqlite:///orders.db" or "sqlite:////var/orders.db"; got {url!r}')
        url = rest[1:]
    journal: Journal = made(url, clock=clock, **options)
    return journal
