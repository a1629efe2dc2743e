"""Pipelines from a TOML file: `sw.load("seawall.toml")["stock"]`. Reloading keeps what circuits and limits have learnt.

Folders of single-value files and the environment may change what the file says. All of it is taken whole or not at all: the
pipelines that run go on under the last good reading. Nothing in it is imported or run: exceptions are named from Python's own
and Seawall's, everything else belongs in code.
"""

from __future__ import annotations

import os
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.errors import ConfigError
from seawall.core.findings import Finding, tell
from seawall.pipeline.build import BadTable, make, options_of, within
from seawall.pipeline.folder import read_folder
from seawall.pipeline.lint import MOST_PROCESSES
from seawall.pipeline.origins import LARGEST, Leaf, Origin, Setting, Tree, leaves, plain, read_variables, without
from seawall.pipeline.pipeline import Pipeline
from seawall.pipeline.plan import Entry, Plan, Plans, merge, refuse_strangers
from seawall.pipeline.policy import Policy
from seawall.pipeline.retry_budget import RetryBudget
from seawall.pipeline.show import Row, rows
from seawall.pipeline.take_over import take_over
from seawall.pipeline.toml_lines import TooDeepError, lines_of
from seawall.pipeline.verbs import Verbs

LARGEST_FILE: Final = LARGEST  # bytes


class Config(Mapping[str, "NamedPipeline"]):
    """The pipelines of one file, by name. A name is looked up when it is used, so decorators work before the file is read.

    path, folders, env: see `load`. Reading happens at the first use, or by `reload`.
    """

    def __init__(
        self, path: str | Path | None, *, folders: Sequence[str | Path] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.path = None if path is None else Path(path)
        self._folders = tuple(map(Path, (folders,) if isinstance(folders, str | Path) else folders))
        self._env = env
        self._read: Reading | None = None
        self._named: dict[str, NamedPipeline] = {}
        self._guarded: dict[str, dict[str, bool]] = {}
        self._lock = threading.RLock()

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
        return self._last().pipelines

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The settings of the last good reading that apply to nothing. Raises ConfigError when there is none."""
        return tuple(self._last().plans.findings)

    def settings(self) -> tuple[Row, ...]:
        """Every value that holds, with its origin: what `seawall config show` prints. Raises ConfigError."""
        reading = self._last()
        return tuple(rows(reading.plans, reading.pipelines, reading.shared))

    def reload(self) -> None:
        """Read everything again, whole or not at all. Policies of the same kind in the same place keep their state.

        Raises ConfigError, with file and line, for what cannot be used; the pipelines that run stay as they are. Settings that
        apply to nothing are warned about (SW101 to SW103).
        """
        with self._lock:
            fresh = Reading(self.path, self._folders, os.environ if self._env is None else self._env)
            for finding in fresh.plans.findings:
                tell(finding, clocks.resolve(None).monotonic())
            if self._read is not None:
                take_over(fresh.pipelines, self._read.pipelines)
            for name, pipeline in fresh.pipelines.items():
                pipeline.guarded = self.guarded(name)
            self._read = fresh

    def guarded(self, name: str) -> dict[str, bool]:
        """The functions that pipeline `name` decorates, through every reading."""
        return self._guarded.setdefault(name, {})

    def target(self, name: str) -> Pipeline:
        """The pipeline that runs under `name` now. Raises ConfigError when the file has none of that name."""
        pipeline = self.pipelines.get(name)
        if pipeline is None:
            names = ", ".join(sorted(self.pipelines)) or "none"
            raise ConfigError(f"there is no pipeline {name!r}; the file has: {names}", path=str(self.path))
        return pipeline

    def _last(self) -> Reading:
        if self._read is None:
            with self._lock:
                if self._read is None:
                    self.reload()
        assert self._read is not None
        return self._read


class NamedPipeline(Verbs):
    """A pipeline of a file, by its name: it decorates, calls and answers as the pipeline does that the file holds now."""

    def __init__(self, config: Config, name: str) -> None:
        self._config = config
        self.name = name

    @property
    def whole(self) -> Any:
        """Itself: what it decorates asks for the file's pipeline at each call."""
        return self

    @property
    def guarded(self) -> dict[str, bool]:
        """The functions that it decorates, and whether each is marked idempotent."""
        return self._config.guarded(self.name)

    def take_name(self, function: Any) -> None:
        """It has a name."""

    def remember(self, function: Any, *, idempotent: bool) -> None:
        """Note a decorated function for `explain()`, before there is a file and after."""
        Pipeline.remember(self, function, idempotent=idempotent)  # type: ignore[arg-type]  # it has what that needs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config.target(self.name), name)

    def __repr__(self) -> str:
        return f"<pipeline {self.name!r} of {self._config.path}>"


def load(path: str | Path | None, *, folders: Sequence[str | Path] = (), env: Mapping[str, str] | None = None) -> Config:
    """The pipelines of a TOML file. The file is read at their first use; `reload()` reads it again.

    path: the file; None = no file, folders and variables say it all.
    folders: folders of single-value files (mounted ConfigMaps and Secrets), the later ones stronger. Default none.
    env: variables that begin with SEAWALL__ and are stronger than all else. Default None = those of this process; {} = none.
    Raises nothing here; using a pipeline raises ConfigError, with file and line, when the file cannot be used.
    """
    return Config(path, folders=folders, env=env)


class Reading:
    """One good reading of all sources: what they say, and what was made of it. Raises ConfigError for a bad one."""

    def __init__(self, path: Path | None, folders: Sequence[Path], variables: Mapping[str, str]) -> None:
        tables, lines = ({}, {}) if path is None else tables_of(path)
        settings, almost = read_variables(variables)
        overlays: list[Setting] = []
        for folder in folders:
            overlays += _outer_first(read_folder(folder))
        overlays += _outer_first(settings)

        def find(at: tuple[str, ...]) -> Origin:
            return _place(path, lines, at)

        refuse_strangers(tables, find)
        self.plans: Plans = merge(tables, find, overlays)
        self.plans.findings += almost
        if not self.plans.pipelines:
            raise ConfigError("it holds no [pipelines.NAME] table", path=str(path or "the settings"))
        self.shared = _shared(self.plans)
        self.pipelines = {name: self._pipeline(plan) for name, plan in self.plans.pipelines.items()}

    def _pipeline(self, plan: Plan) -> Pipeline:
        budgets = _budgets(self.shared)
        policies = [
            _policy(entry, f"pipeline {plan.name}", budgets) if entry.uses is None else self.shared[entry.uses]
            for entry in plan.entries
        ]
        if not isinstance(plan.observe.value, bool | list):
            given = plan.observe.value
            raise plan.observe.origin.error(
                f"pipeline {plan.name}: observe must be true or false, or a list of names; got {given!r}", given
            )
        try:
            pipeline = Pipeline(*policies, name=plan.name, observe=plan.observe.value)
        except (ValueError, TypeError) as error:
            raise plan.origin.error(f"pipeline {plan.name}: {error}") from error
        pipeline.processes = _processes(self.plans.processes)
        return pipeline


def _outer_first(settings: list[Setting]) -> list[Setting]:
    """Of one source, what sets a whole pipeline comes before what changes a part of it."""
    return sorted(settings, key=lambda setting: len(setting.path))


def tables_of(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """A file's tables, and on which line each value stands. Raises ConfigError for a file that cannot be read or is no TOML."""
    text = _text(path)
    try:
        lines = lines_of(text)
        return tomllib.loads(text), lines
    except TooDeepError as error:
        raise ConfigError(str(error), path=str(path), line=error.line) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"it is no TOML: {error}", path=str(path)) from error


def _text(path: Path) -> str:
    """One file of one moment: opened once, however it is swapped."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}", path=str(path)) from error
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"it is larger than {LARGEST_FILE} bytes", path=str(path))
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError("it is not UTF-8 text", path=str(path), line=content.count(b"\n", 0, error.start) + 1) from None


def _place(path: Path | None, lines: Mapping[tuple[str, ...], int], at: tuple[str, ...]) -> Origin:
    """Where a value stands, or the nearest table around it."""
    while at and at not in lines:
        at = at[:-1]
    return Origin("file", str(path), lines.get(at))


# --- from plans to policies


def _shared(plans: Plans) -> dict[str, Policy]:
    """Policies with names of their own; budgets first, since others may use them."""
    made: dict[str, Policy] = {}
    for name, entry in sorted(plans.shared.items(), key=lambda item: item[1].kind != "retry_budget"):
        named = Entry(entry.kind, {"name": Leaf(name, entry.origin), **entry.options}, entry.origin)
        made[name] = _policy(named, f"policy {name}", _budgets(made))
    return made


def _budgets(shared: Mapping[str, Policy]) -> dict[str, RetryBudget]:
    return {name: policy for name, policy in shared.items() if isinstance(policy, RetryBudget)}


def _policy(entry: Entry, whose: str, budgets: Mapping[str, RetryBudget]) -> Policy:
    try:
        return make(entry.kind, {name: plain(tree) for name, tree in entry.options.items()}, budgets)
    except BadTable as error:
        bad = str(error), error.path
    raise _blame(entry, whose, *bad)  # outside the handler: its context would show a value that must stay hidden


def _blame(entry: Entry, whose: str, message: str, path: tuple[str, ...]) -> ConfigError:
    """The error of a policy, at the place of the value that is wrong, without what must not be shown."""
    blamed: Tree = entry.options
    for key in path:
        blamed = blamed[key] if isinstance(blamed, dict) and key in blamed else blamed
    first = next(leaves(blamed), None) if path else None
    hidden = [leaf for _, leaf in leaves(entry.options) if leaf.origin.secret]
    if hidden:
        strange = [key for key in path if key not in {*options_of(entry.kind), *(within(path[0]) or ())}]
        message = without(message, [*(str(leaf.value) for leaf in hidden), *strange])
    return (entry.origin if first is None else first[1].origin).error(f"{whose}: {message}")


def _processes(leaf: Leaf | None) -> int | None:
    if leaf is None:
        return None
    try:
        return units.whole("processes", leaf.value, most=MOST_PROCESSES)
    except (ValueError, TypeError) as error:
        message = str(error)
    raise leaf.origin.error(message, leaf.value)
