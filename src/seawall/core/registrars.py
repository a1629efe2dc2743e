"""Functions that a registrar of ours already holds: it keeps the bare function, so a decorator put on top guards nothing.

Registrars (health checks, event handlers, saga steps) call `hold`; guards ask `held_by` before they decorate.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

_held: weakref.WeakKeyDictionary[Callable[..., Any], str] = weakref.WeakKeyDictionary()


def hold(function: Callable[..., Any], registrar: str) -> None:
    """Remember that `registrar` (as people write it, such as "@health.ready") keeps this very function."""
    _held[function] = registrar


def held_by(function: Callable[..., Any]) -> str | None:
    """Which registrar keeps this function, or None."""
    try:
        return _held.get(function)
    except TypeError:  # objects that cannot be referred to weakly are not held by anybody
        return None
