"""Numbers from numbers: several draws out of one, and points on a wheel for texts. The same in every process and version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_MASK: Final = (1 << 64) - 1
_PRIME: Final = (1 << 61) - 1


def mix(value: int) -> int:
    """A well spread 64-bit number of a number: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def point(text: str, salt: int = 0) -> int:
    """A 64-bit number of a text. Not a secret: who knows it can find texts that share a point."""
    data = text.encode("utf-8", "surrogatepass")
    return mix((int.from_bytes(data + b"\x01", "big") % _PRIME) ^ mix(salt))


def draws(u: float, below: int) -> Iterator[int]:
    """Endless whole numbers in [0, below) out of one number u in [0, 1): a multiplicative generator, started by u."""
    state = int(u * 9007199254740992.0) * 2 + 1
    while True:
        state = (state * 0x5851F42D4C957F2D + 0x14057B7EF767814F) & _MASK
        yield ((state >> 16) * below) >> 48
