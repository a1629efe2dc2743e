"""Pipelines from a TOML file: `sw.load("seawall.toml")["stock"]`. Reloading keeps what circuits and limits have learnt.

A file is taken whole or not at all: the pipelines that run go on under the last good one. Nothing in it is imported or run:
exceptions are named from Python's own and Seawall's, everything else belongs in code.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from seawall.core.errors import ConfigError
from seawall.pipeline.build import BadTable, policy_of, suggest
from seawall.pipeline.pipeline import Pipeline
from seawall.pipeline.verbs import Verbs

LARGEST_FILE: Final = 1 << 20  # bytes
DEEPEST: Final = 32  # tables within tables
_PIPELINE_KEYS: Final = ("policies", "observe")


class Config(Mapping[str, "NamedPipeline"]):
    """The pipelines of one file, by name. A name is looked up when it is used, so decorators work before the file is read.

    path: the file. Reading happens at the first use, or by `reload`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pipelines: dict[str, Pipeline] | None = None
        self._named: dict[str, NamedPipeline] = {}

    def __getitem__(self, name: str) -> NamedPipeline:
        """The pipeline called `name`, which need not be in the file yet."""
        return self._named.setdefault(name, NamedPipeline(self, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.pipelines)

    def __len__(self) -> int:
        return len(self.pipelines)

    @property
    def pipelines(self) -> dict[str, Pipeline]:
        """The pipelines of the last good reading. Raises ConfigError when there is none."""
        if self._pipelines is None:
            self.reload()
        assert self._pipelines is not None
        return self._pipelines

    def reload(self) -> None:
        """Read the file again, whole or not at all. Policies of the same kind in the same place keep their state.

        Raises ConfigError, with file and line, for a file that cannot be used; the pipelines that run stay as they are.
        """
        fresh = read(self.path)
        for name, old in (self._pipelines or {}).items():
            if name in fresh:
                _take_over(fresh[name], old)
        self._pipelines = fresh

    def target(self, name: str) -> Pipeline:
        """The pipeline that runs under `name` now. Raises ConfigError when the file has none of that name."""
        pipeline = self.pipelines.get(name)
        if pipeline is None:
            names = ", ".join(sorted(self.pipelines)) or "none"
            raise ConfigError(f"there is no pipeline {name!r}; the file has: {names}", path=str(self.path))
        return pipeline


class NamedPipeline(Verbs):
    """A pipeline of a file, by its name: it decorates, calls and answers as the pipeline does that the file holds now."""

    def __init__(self, config: Config, name: str) -> None:
        self._config = config
        self.name = name

    @property
    def whole(self) -> Any:
        """Itself: what it decorates asks for the file's pipeline at each call."""
        return self

    def take_name(self, function: Any) -> None:
        """It has a name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config.target(self.name), name)

    def __repr__(self) -> str:
        return f"<pipeline {self.name!r} of {self._config.path}>"


def load(path: str | Path) -> Config:
    """The pipelines of a TOML file. The file is read at their first use; `reload()` reads it again.

    Raises nothing here; using a pipeline raises ConfigError, with file and line, when the file cannot be used.
    """
    return Config(path)


def read(path: Path) -> dict[str, Pipeline]:
    """Read all pipelines of a file. Raises ConfigError, with file and line."""
    text = _text(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"it is no TOML: {error}", path=str(path)) from error
    where = _Where(path, text)
    if _depth(tables) > DEEPEST:
        raise where.error(f"tables may stand in each other at most {DEEPEST} deep")
    pipelines = tables.get("pipelines", {})
    if not isinstance(pipelines, dict) or not pipelines:
        raise where.error("it holds no [pipelines.NAME] table")
    return {name: _pipeline(name, table, where) for name, table in pipelines.items()}


class _Where:
    """Where in a file something stands, for people."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def error(self, message: str, pipeline: str = "", *words: str) -> ConfigError:
        """An error that names the line on which the first of `words` that is found stands, after the pipeline's table begins."""
        start = (self._find(f"pipelines.{pipeline}", 0) or 0) if pipeline else 0
        found = (self._find(word, start) for word in words)
        line = next((number for number in found if number is not None), start)
        return ConfigError(message, path=str(self._path), line=line + 1 if pipeline else None)

    def _find(self, text: str, start: int) -> int | None:
        return next((number for number in range(start, len(self._lines)) if text in self._lines[number]), None)


def _pipeline(name: str, table: object, where: _Where) -> Pipeline:
    if not isinstance(table, dict):
        raise where.error(f"[pipelines.{name}] must be a table", name)
    for key in table:
        if key not in _PIPELINE_KEYS:
            raise where.error(f"unknown key {key!r}{suggest(key, _PIPELINE_KEYS)}", name, key)
    entries = table.get("policies", [])
    if not isinstance(entries, list):
        raise where.error("policies must be an array of tables, outermost first", name, "policies")
    policies = []
    for entry in entries:
        try:
            policies.append(policy_of(entry))
        except BadTable as error:
            raise where.error(f"pipeline {name}: {error}", name, *error.words) from error
    try:
        return Pipeline(*policies, name=name, observe=table.get("observe", False))
    except (ValueError, TypeError) as error:
        raise where.error(f"pipeline {name}: {error}", name) from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"it is larger than {LARGEST_FILE} bytes", path=str(path))
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("it is not UTF-8 text", path=str(path)) from error


def _depth(value: object) -> int:
    """How deep tables and arrays stand in each other, counted no further than the bound."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        inner: list[object] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        level, depth = inner, depth + 1
    return depth


def _take_over(fresh: Pipeline, old: Pipeline) -> None:
    """Policies of the same kind in the same order go on where the old ones were."""
    fresh.sinks = old.sinks
    for kind in {policy.kind for policy in fresh.policies}:
        mine = [policy for policy in fresh.policies if policy.kind == kind]
        theirs = [policy for policy in old.policies if policy.kind == kind]
        for new, before in zip(mine, theirs, strict=False):
            new.take_over(before)
