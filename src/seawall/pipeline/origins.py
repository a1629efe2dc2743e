"""Where a setting comes from, and what of it may be shown."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from seawall.core.errors import ConfigError
from seawall.core.findings import Finding
from seawall.pipeline.toml_lines import TooDeepError, lines_of

PREFIX: Final = "SEAWALL__"
LARGEST: Final = 1 << 20  # bytes: of a file, of all values of a folder, of all variables
LONGEST: Final = 800  # characters of a message: a value that was meant to be a file is not to fill the log
HIDDEN: Final = "<redacted>"

_SECRET: Final = re.compile(r"secret|passw|passphrase|token|credential|api_?key|private|(?:^|[^a-z])auth", re.I)
_USER: Final = re.compile(r"(://)[^/@\s'\"]+@")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    kind: "file", "env", "folder", "preset" or "default". place: the file, the variable's name, or the preset's; "" for a
    default. line: of a file, from 1, or None. secret: the value must not be shown.
    """

    kind: Literal["file", "env", "folder", "preset", "default"]
    place: str = ""
    line: int | None = None
    secret: bool = False

    def error(self, message: str, value: Any = None) -> ConfigError:
        """An error that names this place. value: what is wrong, of which nothing stays in the message if it is secret."""
        place = f"env {self.place}" if self.kind == "env" else self.place
        text = scrub(without(message, _texts(value)) if self.secret else message)
        text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
        return ConfigError(text, path=place, line=self.line)

    def __str__(self) -> str:
        if self.kind == "file":
            return self.place if self.line is None else f"{self.place}:{self.line}"
        return f"{self.kind} {self.place}".strip()


DEFAULT: Final = Origin("default")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value with its origin. A list is one value."""

    value: Any
    origin: Origin


Tree = Leaf | dict[str, "Tree"]
"""What stands in a table: values, and tables of them."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value from outside the file, and the path of what it sets, such as ("pipelines", "stock", "observe")."""

    path: tuple[str, ...]
    value: Any
    origin: Origin


def is_secret(name: str) -> bool:
    """Whether something of this name is not to be shown."""
    return _SECRET.search(name) is not None


def scrub(text: str) -> str:
    """A text without the user and password of the addresses in it."""
    return _USER.sub(r"\1***@", text)


def same(one: str, other: str) -> bool:
    """Whether two names are one: variables know neither case nor hyphens."""
    return one.casefold().replace("-", "_") == other.casefold().replace("-", "_")


def without(message: str, texts: Iterable[str]) -> str:
    """A message without what it got, and without these texts wherever it holds them."""
    before, got, _ = message.partition("; got ")
    for text in sorted(filter(None, texts), key=len, reverse=True):
        before = before.replace(text, HIDDEN)
    return f"{before}{got}{HIDDEN}" if got else before


def _texts(value: Any) -> Iterator[str]:
    """Everything that may be read in a value: its names and its values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)


def plain(tree: Tree) -> Any:
    """The values of a tree, without their origins."""
    return tree.value if isinstance(tree, Leaf) else {key: plain(inner) for key, inner in tree.items()}


def leaves(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Leaf]]:
    """Every value of a tree with its path."""
    if isinstance(tree, Leaf):
        yield path, tree
        return
    for key, inner in tree.items():
        yield from leaves(inner, (*path, key))


def tree_of(value: Any, origin: Origin, secret: bool = False) -> Tree:  # noqa: FBT001, FBT002  # not public
    """A tree of values that all come from one place."""
    if isinstance(value, dict):
        return {key: tree_of(inner, origin, secret or is_secret(key)) for key, inner in value.items()}
    hidden = Origin(origin.kind, origin.place, origin.line, secret=True) if secret else origin
    return Leaf(value, hidden)


def read_value(text: str, origin: Origin) -> Any:
    """What a text means that stands alone: a number, true, false, an array or a table as in TOML; else the text itself.

    Raises ConfigError for tables that stand too deep in each other.
    """
    try:
        lines_of(f"value = {text}")
        tables = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except TooDeepError as error:
        raise origin.error(str(error)) from None
    value = tables["value"]
    return value if tables.keys() == {"value"} and isinstance(value, bool | int | float | str | list | dict) else text


def read_variables(variables: Mapping[str, str]) -> tuple[list[Setting], list[Finding]]:
    """The settings in the environment: `SEAWALL__PIPELINES__STOCK__POLICIES__RETRY__ATTEMPTS=5`, in order of their names.

    Raises ConfigError for values that are too large together, or too deep.
    """
    settings, found, size = [], [], 0
    for name in sorted(variables):
        if not name.upper().startswith(PREFIX):
            if re.match(r"SEAWALL_(PIPELINES|POLICIES)_", name, re.I):
                found.append(_almost(name))
            continue
        path = tuple(part.lower() for part in name[len(PREFIX) :].split("__"))
        origin = Origin("env", name, secret=is_secret(path[-1]))
        size += len(variables[name])
        if size > LARGEST:
            raise origin.error(f"the variables of {PREFIX}... are larger than {LARGEST} bytes together")
        settings.append(Setting(path, read_value(variables[name], origin), origin))
    return settings, found


def _almost(name: str) -> Finding:
    reason = f"it does not begin with {PREFIX}, so it sets nothing."
    return Finding("SW102", "warning", f"env {name}", reason, "put two underscores after SEAWALL, and between all names.")
