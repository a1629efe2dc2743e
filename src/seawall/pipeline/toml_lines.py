"""On which line of a TOML file each value stands. The parser of the standard library does not say.

Run it before `tomllib`, which takes memory without bound for keys of very many parts: what is too deep is refused here. A text
that is no TOML gives lines that mean nothing.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

Path = tuple[str, ...]
DEEPEST: Final = 32
"""How many names a path may have: tables and arrays within each other, and the parts of dotted keys."""

_BLANK: Final = re.compile(r"[ \t\r\n]*(?:#[^\n]*[ \t\r\n]*)*")
_KEY: Final = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[A-Za-z0-9_-]+")
_DOT: Final = re.compile(r"[ \t]*\.[ \t]*")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' + r"|'''.*?'{3,5}(?!')" + r'|"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'", re.S
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")


class TooDeepError(ValueError):
    """Something stands deeper than `DEEPEST`. line: where, from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(f"tables may stand in each other at most {DEEPEST} deep")
        self.line = line


def lines_of(text: str) -> dict[Path, int]:
    """Line numbers, from 1, by path: every key, table and array element. Elements are called "0", "1", ...

    A table that is opened more than once, by headers or dotted keys, stands where it is first named. Raises TooDeepError.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """One pass over a text. `at` is where it stands."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._length = len(text)
        self._counts: dict[Path, int] = {}  # of arrays of tables: elements so far
        self._counted_to = 0
        self._line = 1
        self.at = 0
        self.lines: dict[Path, int] = {}

    def document(self) -> None:
        """All headers and key-value lines."""
        table: Path = ()
        self._skip()
        while self.at < self._length:
            if self._takes("["):
                table = self._header(is_array=self._takes("["))
            elif not self._pair(table):
                return  # no TOML
            self._skip()

    def _header(self, *, is_array: bool) -> Path:
        keys = self._keys()
        path: Path = ()
        for index, key in enumerate(keys):
            path = (*path, key)
            if index < len(keys) - 1 or not is_array:
                self._note(path)
                if path in self._counts:
                    path = (*path, str(self._counts[path] - 1))
        if is_array:
            self._note(path)
            self._counts[path] = self._counts.get(path, 0) + 1
            path = (*path, str(self._counts[path] - 1))
            self._note(path)
        self._takes("]")
        self._takes("]")
        return path

    def _pair(self, table: Path) -> bool:
        keys = self._keys()
        path = table
        for key in keys:
            path = (*path, key)
            self._note(path)
        self._skip()
        if not keys or not self._takes("="):
            return False
        self._skip()
        self._value(path)
        return True

    def _keys(self) -> list[str]:
        keys: list[str] = []
        self._blanks()
        while (match := _KEY.match(self._text, self.at)) is not None:
            if len(keys) == DEEPEST:
                raise TooDeepError(self._count())
            keys.append(_plain(match[0]))
            self.at = match.end()
            dot = _DOT.match(self._text, self.at)
            if dot is None:
                break
            self.at = dot.end()
        self._blanks()
        return keys

    def _value(self, path: Path) -> None:
        """One value, and all that is in it."""
        self._note(path)
        if self._takes("["):
            self._array(path)
        elif self._takes("{"):
            self._table(path)
        else:
            match = _STRING.match(self._text, self.at) or _SCALAR.match(self._text, self.at)
            self.at = match.end() if match is not None else self.at

    def _array(self, path: Path) -> None:
        index = 0
        self._skip()
        while self.at < self._length and not self._takes("]"):
            before = self.at
            self._value((*path, str(index)))
            index += 1
            self._skip()
            self._takes(",")
            self._skip()
            if self.at == before:
                return

    def _table(self, path: Path) -> None:
        self._skip()
        while self.at < self._length and not self._takes("}"):
            if not self._pair(path):
                return
            self._skip()
            self._takes(",")
            self._skip()

    # --- steps

    def _note(self, path: Path) -> None:
        if len(path) > DEEPEST:
            raise TooDeepError(self._count())
        if path not in self.lines:
            self.lines[path] = self._count()

    def _count(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line

    def _takes(self, mark: str) -> bool:
        if self._text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        return False

    def _skip(self) -> None:
        match = _BLANK.match(self._text, self.at)
        self.at = match.end() if match is not None else self.at

    def _blanks(self) -> None:
        while self._text.startswith((" ", "\t"), self.at):
            self.at += 1


def _plain(key: str) -> str:
    """A key without its quotes."""
    if not key.startswith('"'):
        return key.strip("'")
    try:
        return str(tomllib.loads(f"key = {key}")["key"])
    except tomllib.TOMLDecodeError:
        return key  # no TOML, so nobody will ask for it
