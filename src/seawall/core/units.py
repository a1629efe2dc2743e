"""Reading what people write: "250ms", "100/s burst 20"; and refusing what cannot be meant, by name, range and value.

Every rule checks its parameters with these functions at construction, so a policy that exists is a policy that works.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
}
_DURATION: Final = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]+)\s*")
_LIMIT: Final = re.compile(r"\s*([0-9]+)\s*/\s*([0-9]*\.?[0-9]+)?\s*([a-z]+)(?:\s+burst\s+([0-9]+))?\s*")


def seconds(name: str, value: object, *, zero: bool = False, infinite: bool = False, above: float | None = None) -> float:
    """Read a duration: a number of seconds, or text such as "250ms", "1.5s", "2min", "1h".

    name: the parameter's name, for the error. zero: whether 0 is allowed. infinite: whether `inf` is allowed.
    above: a lower bound (inclusive) beside "positive".
    Raises TypeError for what is neither number nor text, ValueError for what is out of range or unreadable.
    """
    wanted = f"{name} must be a {'non-negative' if zero else 'positive'}{'' if infinite else ', finite'} duration"
    wanted += ' in seconds, or text such as "250ms"'
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is not None and match[2] not in _SECONDS:
            raise ValueError(f"{wanted}; {match[2]!r} is no unit of ns, us, ms, s, min, h, d; got {value!r}")
        if match is None:
            raise ValueError(f"{wanted}; got {value!r}")
        length = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{wanted}; got {value!r}")
    else:
        length = float(value)
    if math.isnan(length) or length < 0 or (length == 0 and not zero) or (math.isinf(length) and not infinite):
        raise ValueError(f"{wanted}; got {value!r}")
    if above is not None and length < above:
        raise ValueError(f"{name} must be at least {above:g} seconds; got {value!r}")
    return length


def whole(name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """Read a whole number in [least, most]. Raises TypeError or ValueError naming the parameter, range and value."""
    bounds = f">= {least}" if most is None else f"in [{least}, {most}]"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number {bounds}; got {value!r}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {bounds}; got {value!r}")
    return value


def ratio(name: str, value: object, *, zero: bool = False) -> float:
    """Read a share in (0, 1], or [0, 1] with `zero`. Raises TypeError or ValueError naming parameter and value."""
    bounds = "in [0, 1]" if zero else "in (0, 1]"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number {bounds}; got {value!r}")
    if not (0 <= value <= 1) or (value == 0 and not zero):
        raise ValueError(f"{name} must be {bounds}; got {value!r}")
    return float(value)


def number(name: str, value: object, *, least: float = 0.0) -> float:
    """Read a finite number >= least. Raises TypeError or ValueError naming the parameter, range and value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number >= {least:g}; got {value!r}")
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{name} must be finite and >= {least:g}; got {value!r}")
    return float(value)


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Read one of a few words. Raises ValueError that lists them all, TypeError for what is no text."""
    wanted = f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}"
    if not isinstance(value, str):
        raise TypeError(wanted)
    if value not in choices:
        raise ValueError(wanted)
    return value


@dataclass(frozen=True)
class Limit:
    """A rate: `count` calls per `per` seconds, up to `burst` of them at once.

    count: whole number >= 1. per: seconds, > 0, or text such as "1min". burst: whole number >= 1, the capacity (not
    an extra on top); default None = count.
    Raises TypeError or ValueError naming the parameter, its range and the value given.

    >>> Limit.parse("100/s burst 20")
    Limit(count=100, per=1.0, burst=20)
    """

    count: int
    per: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        whole("count", self.count)
        object.__setattr__(self, "per", seconds("per", self.per))
        if self.burst is None:
            object.__setattr__(self, "burst", self.count)
        whole("burst", self.burst)

    @classmethod
    def parse(cls, spec: object) -> Limit:
        """Read "100/s", "5/10s", "100/min burst 20". A Limit is returned as it is."""
        if isinstance(spec, Limit):
            return spec
        if not isinstance(spec, str):
            raise TypeError(f'spec must be text such as "100/s burst 20", or a Limit; got {spec!r}')
        match = _LIMIT.fullmatch(spec)
        if match is None or match[3] not in _SECONDS:
            raise ValueError(f'spec must read like "100/s", "5/10s" or "100/min burst 20"; got {spec!r}')
        per = float(match[2] or 1) * _SECONDS[match[3]]
        return cls(int(match[1]), per, int(match[4]) if match[4] else None)

    @property
    def capacity(self) -> int:
        """How many calls may pass at once: `burst`, which is `count` when it was not given."""
        return self.count if self.burst is None else self.burst

    def __str__(self) -> str:
        return f"{self.count}/{self.per:g}s burst {self.capacity}"
