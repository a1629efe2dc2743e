"""Every value that holds, with where it comes from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seawall.pipeline.build import options_of, within
from seawall.pipeline.origins import DEFAULT, HIDDEN, Leaf, Origin, Tree, leaves, scrub
from seawall.pipeline.pipeline import Pipeline
from seawall.pipeline.plan import Entry, Plans
from seawall.pipeline.policy import Policy


@dataclass(frozen=True, slots=True)
class Row:
    """One value. path: what it sets, such as "pipelines.stock.policies.retry.attempts"; value: as it was given, or redacted."""

    path: str
    value: Any
    origin: Origin

    def __str__(self) -> str:
        return f"{self.path} = {shown(self.value)}"


def rows(plans: Plans, pipelines: Mapping[str, Pipeline], shared: Mapping[str, Policy]) -> Iterator[Row]:
    """All values of all pipelines and of the policies that they share, in order."""
    if plans.processes is not None:
        yield _row("processes", plans.processes)
    for name, entry in plans.shared.items():
        yield from _options(f"policies.{name}", entry, shared[name])
    for name, plan in plans.pipelines.items():
        at = f"pipelines.{name}"
        yield _row(f"{at}.observe", plan.observe)
        for label, entry, policy in zip(plans.labels(plan), plan.entries, pipelines[name].policies, strict=True):
            if entry.uses is not None:
                yield Row(f"{at}.policies.{label}.use", entry.uses, entry.origin)
            else:
                yield from _options(f"{at}.policies.{label}", entry, policy)


def shown(value: Any) -> str:
    """A value as a file would hold it; none for None."""
    if value is None:
        return "none"
    if isinstance(value, bool | int | float | str | list):
        return json.dumps(value, ensure_ascii=False)
    return getattr(value, "__name__", repr(value))


def _options(at: str, entry: Entry, policy: Policy) -> Iterator[Row]:
    """Every option of a policy that a file can give: given, or by default."""
    for name, parameter in options_of(entry.kind).items():
        given = entry.options.get(name)
        inner = within(name)
        made = _held(policy, name)
        if isinstance(given, Leaf):
            yield _row(f"{at}.{name}", given)
        elif inner is not None and made is not None and (given is not None or not _is_plain(made)):
            yield from _inner(f"{at}.{name}", given or {}, inner, made)
        elif name != "name":
            yield Row(f"{at}.{name}", parameter.default, DEFAULT)


def _inner(at: str, given: dict[str, Tree], options: Mapping[str, inspect.Parameter], made: Any) -> Iterator[Row]:
    """The options of a Backoff or a RetryBudget."""
    for name in options:
        tree = given.get(name)
        if tree is not None:
            yield from (_row(".".join((at, name, *path)), leaf) for path, leaf in leaves(tree))
        elif name != "name" and (value := _held(made, name)) is not None:
            yield Row(f"{at}.{name}", value, DEFAULT)


def _held(policy: Any, name: str) -> Any:
    """What a policy holds under the name of an option."""
    rule = getattr(policy, "rule", None)
    return getattr(rule, name, None) if hasattr(rule, name) else getattr(policy, name, None)


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _row(path: str, leaf: Leaf) -> Row:
    if leaf.origin.secret:
        return Row(path, HIDDEN, leaf.origin)
    return Row(path, scrub(leaf.value) if isinstance(leaf.value, str) else leaf.value, leaf.origin)
