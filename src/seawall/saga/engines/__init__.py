"""Sagas on engines that others built and many teams already run: the same definitions and words, another place to keep them."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any, Final

from seawall.core.errors import MissingExtra

if TYPE_CHECKING:
    from seawall.saga.engines.sagas import EngineSagas

ENGINES: Final = {
    "temporal": ("seawall.saga.engines.temporal:TemporalEngine", "temporal"),
    "dbos+sqlite": ("seawall.saga.engines.dbos:DbosEngine", "dbos"),
    "dbos+postgresql": ("seawall.saga.engines.dbos:DbosEngine", "dbos"),
}
GROUP: Final = "seawall.saga.engines"


def engine_path(url: Any) -> tuple[str, str] | None:
    """Where the engine of a URL is, as "module:Class" with its extra; None when the scheme is a journal's, or nobody's."""
    scheme, found, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    if not found:
        return None
    if scheme in ENGINES:
        return ENGINES[scheme]
    return next(((point.value, "") for point in importlib.metadata.entry_points(group=GROUP, name=scheme)), None)


def engine_class(url: str) -> Any:
    """The engine's class. Raises MissingExtra for a library that is not installed."""
    found = engine_path(url)
    if found is None:
        raise ValueError(f"url must begin with one of {', '.join(f'{name}://' for name in ENGINES)}; got {url!r}")
    path, extra = found
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("seawall"):
            raise
        raise MissingExtra(f'{url.partition("://")[0]}:// needs a library: pip install "seawall[{extra}]"') from error


def sagas_class(url: Any) -> type[EngineSagas] | None:
    """What `Sagas(url)` becomes on an engine; None on a journal."""
    if engine_path(url) is None:
        return None
    from seawall.saga.engines.sagas import EngineSagas

    return EngineSagas
