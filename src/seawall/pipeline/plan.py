"""What all sources of settings say together: the pipelines of a file, changed by folders, changed by the environment.

Nothing is built here. Every value keeps its origin, and what applies to nothing becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from seawall.core.findings import Finding
from seawall.pipeline.build import KINDS, SHAREABLE, BadTable, check_kind, first_option, one_pair, options_of, suggest
from seawall.pipeline.origins import DEFAULT, Leaf, Origin, Setting, Tree, is_secret, leaves, same, tree_of

ROOTS: Final = ("pipelines", "policies", "processes")
_PIPELINE_KEYS: Final = ("policies", "preset", "observe")
_ARRAY: Final = "policies must be an array of tables, outermost first"

NOT_OBSERVING: Final = Leaf(value=False, origin=DEFAULT)

Find = Callable[[tuple[str, ...]], Origin]
"""From the path of a value to its origin."""


@dataclass(slots=True)
class Entry:
    """One policy that will be made: its kind and its options; or the name of a shared policy that it stands for."""

    kind: str
    options: dict[str, Tree]
    origin: Origin
    uses: str | None = None


@dataclass(slots=True)
class Plan:
    """One pipeline that will be made."""

    name: str
    origin: Origin
    entries: list[Entry] = field(default_factory=list)
    observe: Leaf = NOT_OBSERVING


@dataclass(slots=True)
class Plans:
    """Everything that will be made, and what applies to nothing. shared: policies under names of their own."""

    pipelines: dict[str, Plan] = field(default_factory=dict)
    shared: dict[str, Entry] = field(default_factory=dict)
    processes: Leaf | None = None
    findings: list[Finding] = field(default_factory=list)

    def labels(self, plan: Plan) -> list[str]:
        """What the policies of a pipeline will be called, as `Pipeline` names them."""
        given = [self._given_name(entry) for entry in plan.entries]
        taken = {name for name in given if name is not None}
        names = []
        for entry, own in zip(plan.entries, given, strict=True):
            name, number = entry.kind if own is None else own, 1
            while own is None and name in taken:
                number += 1
                name = f"{entry.kind}-{number}"
            taken.add(name)
            names.append(name)
        return names

    def _given_name(self, entry: Entry) -> str | None:
        options = entry.options
        if entry.uses is not None:
            options = self.shared[entry.uses].options if entry.uses in self.shared else {}
        name = options.get("name")
        return str(name.value) if isinstance(name, Leaf) else entry.uses


def merge(tables: Mapping[str, Any], find: Find, overlays: Iterable[Setting]) -> Plans:
    """The plans of a file's tables and of settings that change them, the strongest last. Raises ConfigError."""
    plans = Plans()
    if "processes" in tables:
        plans.processes = Leaf(tables["processes"], find(("processes",)))
    for name, entry in _table(tables, find, "policies").items():
        plans.shared[name] = _shared(name, entry, find)
    later: list[Setting] = []
    for name, table in _table(tables, find, "pipelines").items():
        plans.pipelines[name] = _pipeline(name, table, find, later)
    for setting in (*later, *overlays):
        for part in _flat(setting):
            told = _apply(plans, part)
            if told is not None and part.origin.kind == "file":
                raise part.origin.error(told.reason)
            plans.findings += [told] if told is not None else []
    _look_for_strays(plans)
    return plans


def refuse_strangers(tables: Mapping[str, Any], find: Find) -> None:
    """Raise ConfigError for a table at the top that looks like a slip; other tables are somebody else's."""
    for key in tables:
        hint = suggest(key, ROOTS)
        if key not in ROOTS and "did you mean" in hint:
            raise find((key,)).error(f"unknown table {key!r}{hint}")


# --- a file's tables


def _table(tables: Mapping[str, Any], find: Find, key: str) -> Mapping[str, Any]:
    table = tables.get(key, {})
    if not isinstance(table, dict):
        raise find((key,)).error(f"[{key}] must hold tables, such as [{key}.NAME]")
    return table


def _shared(name: str, value: object, find: Find) -> Entry:
    at = ("policies", name)
    try:
        kind, inner = one_pair(value)
        check_kind(kind, SHAREABLE)
    except BadTable as error:
        raise find(at).error(f"policy {name}: {error}") from None
    return _entry(kind, inner, (*at, kind), find)


def _pipeline(name: str, table: object, find: Find, later: list[Setting]) -> Plan:
    at = ("pipelines", name)
    if not isinstance(table, dict):
        raise find(at).error(f"[pipelines.{name}] must be a table")
    for key in table:
        if key not in _PIPELINE_KEYS:
            raise find((*at, key)).error(f"unknown key {key!r}{suggest(key, _PIPELINE_KEYS)}")
    plan = Plan(name, find(at))
    if "observe" in table:
        plan.observe = Leaf(table["observe"], find((*at, "observe")))
    if "preset" in table:
        plan.entries = _preset(table["preset"], find((*at, "preset")))
    policies = table.get("policies", [])
    if isinstance(policies, dict) and "preset" in table:
        later += [Setting((*at, "policies", *path), leaf.value, leaf.origin) for path, leaf in _changes(policies, at, find)]
    elif not isinstance(policies, list) or (policies and "preset" in table):
        wanted = "beside preset, policies must be a table of changes, by policy" if "preset" in table else _ARRAY
        raise find((*at, "policies")).error(wanted)
    else:
        plan.entries += _entries(policies, (*at, "policies"), find, name)
    return plan


def _changes(policies: dict[str, Any], at: tuple[str, ...], find: Find) -> Iterable[tuple[tuple[str, ...], Leaf]]:
    return leaves(_tree(policies, (*at, "policies"), find))


def _entries(values: list[Any], at: tuple[str, ...], find: Find, pipeline: str) -> list[Entry]:
    entries = []
    for index, value in enumerate(values):
        place = (*at, str(index))
        if isinstance(value, str) or (isinstance(value, dict) and value.keys() == {"use"}):
            name = str(value if isinstance(value, str) else value["use"])
            entries.append(Entry("use", {}, find(place), uses=name))
            continue
        try:
            kind, inner = one_pair(value)
            check_kind(kind, KINDS)
        except BadTable as error:
            bad: str | None = str(error)
        else:
            bad = None
        if bad is not None:  # outside the handler, whose context would show a value that must stay hidden
            at_name = (*place, next(iter(value))) if isinstance(value, dict) and len(value) == 1 else place
            raise find(at_name).error(f"pipeline {pipeline}: {bad}", value)
        entries.append(_entry(kind, inner, (*place, kind), find))
    return entries


def _entry(kind: str, value: Any, at: tuple[str, ...], find: Find) -> Entry:
    if not isinstance(value, dict):
        return Entry(kind, {first_option(kind): _tree(value, at, find)}, find(at))
    return Entry(kind, {key: _tree(inner, (*at, key), find) for key, inner in value.items()}, find(at))


def _tree(value: Any, at: tuple[str, ...], find: Find) -> Tree:
    if isinstance(value, dict):
        return {key: _tree(inner, (*at, key), find) for key, inner in value.items()}
    return tree_of(value, find(at), secret=is_secret(at[-1]))


def _preset(name: object, origin: Origin) -> list[Entry]:
    from seawall.presets import TABLES

    if not isinstance(name, str) or name not in TABLES:
        raise origin.error(f"there is no such preset; got {name!r}{suggest(str(name), tuple(TABLES))}", name)
    whence = Origin("preset", name)
    return [_entry(kind, options, (kind,), lambda _: whence) for table in TABLES[name]() for kind, options in table.items()]


# --- settings that change them


def _flat(setting: Setting) -> Iterable[Setting]:
    """A table as the settings that stand in it."""
    if not isinstance(setting.value, dict) or not setting.value:
        return (setting,)
    tree = tree_of(setting.value, setting.origin, secret=setting.origin.secret)
    return [Setting((*setting.path, *path), leaf.value, leaf.origin) for path, leaf in leaves(tree)]


def _apply(plans: Plans, setting: Setting) -> Finding | None:
    """Put a setting where it belongs; a finding when it belongs nowhere."""
    head, *rest = setting.path
    leaf = Leaf(setting.value, setting.origin)
    if same(head, "processes") and not rest:
        plans.processes = leaf
    elif same(head, "policies") and rest:
        shared = _named(plans.shared, rest[0], setting.origin)
        if shared is None:
            return _nowhere(setting, f"there is no policy {rest[0]!r}{suggest(rest[0], tuple(plans.shared))}")
        _set(plans.shared[shared], rest[1:], leaf)
    elif same(head, "pipelines") and len(rest) > 1:
        return _apply_to_pipeline(plans, setting, rest[0], rest[1:], leaf)
    else:
        return _no_setting(setting)
    return None


def _apply_to_pipeline(plans: Plans, setting: Setting, wanted: str, keys: list[str], leaf: Leaf) -> Finding | None:
    name = _named(plans.pipelines, wanted, setting.origin)
    what = keys[0].lower()
    whole = len(keys) == 1 and what in _PIPELINE_KEYS[:2]
    if name is None and not whole:
        return _nowhere(setting, f"there is no pipeline {wanted!r}{suggest(wanted, tuple(plans.pipelines))}")
    plan = plans.pipelines.setdefault(name or wanted, Plan(wanted, setting.origin))
    if whole:
        plan.origin = setting.origin
        plan.entries = _whole(what, setting, plan.name)
    elif what == "observe" and len(keys) == 1:
        plan.observe = leaf
    elif what == "policies":
        return _apply_to_policy(plans, plan, setting, keys[1:], leaf)
    else:
        return _no_setting(setting)
    return None


def _whole(what: str, setting: Setting, pipeline: str) -> list[Entry]:
    """All policies of a pipeline out of one setting."""
    if what == "preset":
        return _preset(setting.value, setting.origin)
    if not isinstance(setting.value, list):
        raise setting.origin.error(f"pipeline {pipeline}: {_ARRAY}")
    return _entries(setting.value, (), lambda _: setting.origin, pipeline)


def _apply_to_policy(plans: Plans, plan: Plan, setting: Setting, keys: list[str], leaf: Leaf) -> Finding | None:
    """By place and kind (0, timeout, ...) or by name (retry, ...)."""
    labels = plans.labels(plan)
    if keys[0].isdecimal() and len(keys[0]) < 5 and len(keys) > 1:
        entry = plan.entries[int(keys[0])] if int(keys[0]) < len(plan.entries) else None
        if entry is not None and same(entry.kind, keys[1]):
            _set(entry, keys[2:], leaf)
            return None
        there = f"is {entry.kind}" if entry is not None else "does not exist"
        return _nowhere(setting, f"policy {keys[0]} of pipeline {plan.name!r} {there}, not {keys[1]}")
    name = _named(dict(zip(labels, plan.entries, strict=True)), keys[0], setting.origin)
    entry = plan.entries[labels.index(name)] if name is not None else None
    if entry is None or name is None:
        return _nowhere(setting, f"pipeline {plan.name!r} has no policy {keys[0]!r}{suggest(keys[0], tuple(labels))}")
    if entry.uses is not None:
        return _nowhere(setting, f"{name} is shared by its name; set it under policies and {entry.uses}")
    _set(entry, keys[1:], leaf)
    return None


def _set(entry: Entry, keys: list[str], leaf: Leaf) -> None:
    """Change one option; without a name the one that a value without a table stands for."""
    first, *inner = keys or [first_option(entry.kind)]
    name = next((option for option in options_of(entry.kind) if same(option, first)), first)
    table: dict[str, Tree] = entry.options
    for key in inner:
        below = table.get(name)
        table[name] = table = below if isinstance(below, dict) else {}
        name = key
    table[name] = leaf


def _named(names: Mapping[str, Any], wanted: str, origin: Origin) -> str | None:
    """The one of `names` that is meant. Raises ConfigError when it could be more than one."""
    found = [name for name in names if name == wanted] or [name for name in names if same(name, wanted)]
    if len(found) > 1:
        raise origin.error(f"{wanted!r} could mean {' or '.join(map(repr, found))}; rename one of them")
    return found[0] if found else None


# --- what applies to nothing


def _nowhere(setting: Setting, reason: str) -> Finding:
    reason = reason if reason.endswith("?") else f"{reason}."
    return Finding("SW101", "warning", str(setting.origin), reason, "correct the name, or take the setting away.")


def _no_setting(setting: Setting) -> Finding:
    path = ".".join(setting.path)
    reason = f"{path} is no setting; settings begin with pipelines.NAME.policies, pipelines.NAME.observe or policies.NAME."
    return Finding("SW102", "warning", str(setting.origin), reason, "correct the name, or take it away.")


def _look_for_strays(plans: Plans) -> None:
    """Names that are used and not there are errors; names that are there and not used are findings."""
    entries = [entry for plan in plans.pipelines.values() for entry in plan.entries]
    for entry in entries:
        if entry.uses is not None and entry.uses not in plans.shared:
            hint = suggest(entry.uses, tuple(plans.shared))
            raise entry.origin.error(f"there is no [policies.{entry.uses}]{hint}", entry.uses)
    budgets = [entry.options.get("budget") for entry in (*entries, *plans.shared.values())]
    used = {entry.uses for entry in entries} | {leaf.value for leaf in budgets if isinstance(leaf, Leaf) and _is_name(leaf)}
    for name, entry in plans.shared.items():
        if name not in used:
            reason = f"no pipeline uses [policies.{name}] ({entry.origin})."
            plans.findings.append(Finding("SW103", "warning", name, reason, "use it in a pipeline, or take it away."))


def _is_name(leaf: Leaf) -> bool:
    return isinstance(leaf.value, str)
