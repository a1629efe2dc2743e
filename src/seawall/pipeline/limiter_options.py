"""What a rate limiter may be told, and how it is read; shared by the limiter in memory and the one that processes share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, Literal

from seawall.core import units
from seawall.core.units import Limit

One = str | Limit
Spec = One | list[One] | tuple[One, ...] | dict[str, One | list[One]]
Mode = Literal["exact", "lease", "auto"]
Outage = Literal["local", "open", "closed"]
LONGEST_PENALTY: Final = 1e9
SHARED: Final = "seawall.shared.limiter:SharedRateLimiter"
"""What a limiter becomes that needs a store, or one of the options that the limiter in memory has not."""
ONLY_SHARED: Final = {"headroom": None, "observe": False, "mode": "exact", "outage": "local", "replicas": None}


def checked_key(key: Hashable) -> Hashable:
    """A key that is equal to its like. Raises TypeError for one that would give every object a limit of its own."""
    if key.__class__ is str:
        return key
    own = type(key).__hash__
    if key is None or own is None or own is object.__hash__:
        raise TypeError(
            "key must be text, or another hashable value that equals its like, such as a number or a tuple of texts; "
            f"got {key!r}; give key= a function of the arguments that returns one"
        )
    return key


def read_key(key: object) -> Any:
    """An argument's name or a function, as it is. Raises TypeError."""
    if key is None or callable(key) or (isinstance(key, str) and key):
        return key
    raise TypeError(f"key must be an argument's name or a function of the arguments, or None; got {key!r}")


def read_penalty(seconds: float | str) -> float:
    """The length of a penalty. Raises ValueError or TypeError."""
    length = units.seconds("seconds", seconds)
    if length > LONGEST_PENALTY:
        raise ValueError(f"seconds must be at most {LONGEST_PENALTY:g}; got {seconds!r}")
    return length


def is_shared(spec: object, options: dict[str, Any]) -> bool:
    """Whether a limiter of these options needs a store, or what only the shared one can."""
    if options.get("store") not in (None, "memory:") or isinstance(spec, dict):
        return True
    if any(options.get(name, default) != default for name, default in ONLY_SHARED.items()):
        return True
    return any(
        type(each) is not Limit and isinstance(each, Limit) for each in (spec if isinstance(spec, (list, tuple)) else [spec])
    )


def refuse_store(store: object) -> None:
    """Raise TypeError for a store that a class derived from RateLimiter was given."""
    if store is not None and store != "memory:":
        raise TypeError(f"store works with RateLimiter itself, not with classes derived from it; got {store!r}")
