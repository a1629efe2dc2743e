"""Reading tables of a TOML file one value at a time, so that everything wrong in it is told with its line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from seawall.core import units
from seawall.core.errors import ConfigError
from seawall.pipeline.build import suggest
from seawall.pipeline.config import tables_of
from seawall.pipeline.origins import Origin

T = TypeVar("T")
MISSING: Final = object()


class Table:
    """One table with the place of each of its values. `done` complains about keys that nobody asked for."""

    def __init__(self, path: Path, lines: Mapping[tuple[str, ...], int], at: tuple[str, ...], values: Mapping[str, Any]) -> None:
        self.path = path
        self.at = at
        self.values = values
        self._lines = lines
        self._asked: list[str] = []

    @property
    def label(self) -> str:
        """How people write it, such as `services.stock`."""
        return ".".join(self.at) or "the file"

    def origin(self, *keys: str) -> Origin:
        """Where a value stands, or the nearest table around it."""
        at = (*self.at, *keys)
        while at and at not in self._lines:
            at = at[:-1]
        return Origin("file", str(self.path), self._lines.get(at))

    def error(self, message: str, *keys: str) -> ConfigError:
        """An error at the place of a value."""
        return self.origin(*keys).error(message)

    def has(self, key: str) -> bool:
        """Whether the table says anything about `key`."""
        self._asked.append(key)
        return key in self.values

    def read(self, key: str, reader: Callable[[str, Any], T], default: Any = MISSING) -> T:
        """One value as `reader(name, value)` reads it. Raises ConfigError when it is missing or wrong."""
        if not self.has(key):
            if default is MISSING:
                raise self.error(f"{self.label} must say {key}")
            return default  # type: ignore[no-any-return]
        try:
            return reader(f"{self.label}: {key}", self.values[key])
        except (TypeError, ValueError) as error:
            raise self.error(str(error), key) from error

    def table(self, key: str) -> Table | None:
        """A table within this one; None when there is none."""
        if not self.has(key):
            return None
        value = self.values[key]
        if not isinstance(value, dict):
            raise self.error(f"{self.label}: {key} must be a table; got {value!r}", key)
        return Table(self.path, self._lines, (*self.at, key), value)

    def tables(self, key: str) -> dict[str, Table]:
        """The named tables within `[key]`."""
        outer = self.table(key)
        if outer is None:
            return {}
        found = {}
        for name in outer.values:
            inner = outer.table(name)
            assert inner is not None
            found[name] = inner
        return found

    def array(self, key: str) -> Iterator[Table]:
        """The tables of `[[key]]`."""
        rows = self.values[key] if self.has(key) else []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.error(f"{key} must be written as [[{key}]] tables", key)
        for number, row in enumerate(rows):
            yield Table(self.path, self._lines, (*self.at, key, str(number)), row)

    def done(self) -> None:
        """Raise ConfigError for a key that means nothing."""
        for key in self.values:
            if key not in self._asked:
                hint = suggest(key, tuple(self._asked))
                raise self.error(f"{self.label}: unknown key {key!r}{hint}; there are {', '.join(sorted(set(self._asked)))}", key)


def read_tables(path: Path) -> Table:
    """All tables of a file. Raises ConfigError with file and line."""
    values, lines = tables_of(path)
    return Table(path, lines, (), values)


# --- readers of single values


def text(name: str, value: object) -> str:
    """A text that is not empty and has no control characters."""
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > 2048:
        raise ValueError(f"{name} must be a printable text of 1 to 2048 characters; got {str(value)[:80]!r}")
    return value


def path_of(name: str, value: object) -> str:
    """A path of a URL; it begins with '/'."""
    if not text(name, value).startswith("/"):
        raise ValueError(f"{name} must begin with '/'; got {value!r}")
    return str(value)


def header(name: str, value: object) -> str:
    """A header's name in lower case."""
    found = text(name, value).lower()
    if not all(letter.isalnum() or letter in "-_" for letter in found):
        raise ValueError(f"{name} must be a header's name of letters, digits, '-' and '_'; got {value!r}")
    return found


def flag(name: str, value: object) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false; got {value!r}")
    return value


def texts(name: str, value: object) -> tuple[str, ...]:
    """A list of texts, at most 256."""
    if not isinstance(value, list) or len(value) > 256:
        raise TypeError(f"{name} must be a list of at most 256 texts; got {value!r}")
    return tuple(text(name, each) for each in value)


def share(name: str, value: Any) -> float:
    """A part of all, in [0, 1]."""
    return units.ratio(name, value, zero=True)


def seconds(name: str, value: Any) -> float:
    """A duration, > 0."""
    return units.seconds(name, value)


def whole(least: int, most: int) -> Callable[[str, Any], int]:
    """A whole number in a range."""
    return lambda name, value: units.whole(name, value, least=least, most=most)


def file_of(folder: Path) -> Callable[[str, Any], str]:
    """A file that can be read, relative to the folder of the configuration; its absolute path."""

    def read(name: str, value: object) -> str:
        path = (folder / text(name, value)).absolute()
        if not os.access(path, os.R_OK) or path.is_dir():
            raise ValueError(f"{name} must be a file that can be read; got {value!r}")
        return str(path)

    return read
