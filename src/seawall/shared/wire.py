"""What goes over the line to a store: scripts, asks, answers; without any driver."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Final
from urllib.parse import urlsplit

from seawall.shared.port import Answer, Ask

WIDTH: Final = 5  # numbers that the script answers for each ask


class Script:
    """One Lua script and its SHA-1."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    @classmethod
    def named(cls, name: str) -> Script:
        """The script in lua/NAME.lua."""
        return cls(files("seawall.shared").joinpath("lua", f"{name}.lua").read_text("utf-8"))


def told(url: object) -> str:
    """A URL without its password, for people."""
    split = urlsplit(str(url))
    host = split.netloc.rpartition("@")[2]
    return f"{split.scheme}://{host}{split.path}"[:200]


@lru_cache(maxsize=16)
def script_named(name: str) -> Script:
    """The script in lua/NAME.lua, read once."""
    return Script.named(name)


def packed(asks: Sequence[Ask]) -> tuple[list[str], list[bytes]]:
    """The keys and arguments of a batch."""
    return [key for ask in asks for key in ask.keys], [ask.packed() for ask in asks]


def answers_of(raw: list[int]) -> list[Answer]:
    """The answers to a batch."""
    at = raw[-1]
    return [Answer._make((*raw[first : first + WIDTH], at, False)) for first in range(0, len(raw) - 1, WIDTH)]
