"""From what callers name to keys of a store: bounded, printable, and unable to reach beyond their own place.

A subject that is plain text of at most 96 characters stays readable. Everything else (longer text, control characters, braces
that would move the key to another slot, other types) is hashed, behind a mark that plain text cannot begin with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Final
from uuid import UUID

LONGEST: Final = 96
MARKS: Final = "~#"
FORBIDDEN: Final = frozenset("{}:\x7f")


def subject(key: Hashable) -> str:
    """The text that stands for `key` in a store: equal keys have equal texts, others (but for a broken hash) have not.

    Raises TypeError for a key that another process could not write the same way.
    """
    if isinstance(key, str):
        return _plain(str.__str__(key))
    if isinstance(key, bool | int):
        return f"~i{int(key)}" if abs(int(key)) < 10**40 else _hashed(f"i{int(key)}")
    if isinstance(key, float):
        return f"~i{int(key)}" if key.is_integer() and abs(key) < 1e16 else f"~f{key!r}"
    if isinstance(key, UUID):
        return f"~u{key.hex}"
    if isinstance(key, bytes):
        return _hashed("b" + key.hex())
    if isinstance(key, tuple):
        parts = [subject(part) for part in key]
        return _hashed("t" + "".join(f"{len(part)},{part}" for part in parts))
    raise TypeError(
        "key must be text, bytes, a number, a UUID or a tuple of them when processes share the limit, "
        f"so that each of them writes it the same way; got {key!r}"
    )


def name(text: str) -> str:
    """A limiter's name as part of a key."""
    return _plain(text) if text else "~"


def _plain(text: str) -> str:
    if text == "":
        return "~"
    fine = len(text) <= LONGEST and text[0] not in MARKS and text.isprintable() and FORBIDDEN.isdisjoint(text)
    return text if fine else _hashed("s" + text)


def _hashed(text: str) -> str:
    return "#" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
