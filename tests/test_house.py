"""The rules of the house, checked: floors, purity, drivers, sizes, twins, and what must not stand in the code.

Every check is a function from source text to complaints, and is itself tested on a bad example: a check that cannot fail is
no check.
"""

from __future__ import annotations

import ast
import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "seawall"

# A room may import the rooms named here, and itself.
FLOORS: dict[str, set[str]] = {"core": set(), "policies": {"core"}, "pipeline": {"core", "policies"}}
FLOORS["shared"] = FLOORS["pipeline"] | {"pipeline"}
FLOORS["discovery"] = FLOORS["health"] = FLOORS["saga"] = FLOORS["pipeline"] | {"pipeline"}
FLOORS["balancing"] = FLOORS["discovery"] | {"discovery"}
FLOORS["choreography"] = FLOORS["saga"] | {"saga"}
FLOORS["adapters"] = FLOORS["gateway"] = FLOORS["telemetry"] = (
    FLOORS["choreography"] | FLOORS["balancing"] | {"choreography", "balancing", "shared", "health"}
)
FLOORS["simulator"] = FLOORS["adapters"] | {"adapters", "gateway", "telemetry"}
FLOORS["testing"] = FLOORS["simulator"] | {"simulator"}
FLOORS["dashboard"] = FLOORS["testing"] | {"testing"}
FLOORS["demo"] = FLOORS["dashboard"] | {"dashboard"}
FLOORS["cli"] = FLOORS["demo"] | {"demo"}

PURE = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "types",
    "typing",
}
PURE_FILES = (
    "policies/",
    "core/outcome.py",
    "core/kinds.py",
    "core/clients.py",
    "core/units.py",
    "saga/plan.py",
    "balancing/rules/",
)
STANDARD = set(sys.stdlib_module_names)


def parse(source: str) -> ast.Module:
    """The tree of a source. CPython 3.11 counts recursion per process there, and fails once when a finaliser parses too."""
    for _ in range(3):
        try:
            return ast.parse(source)
        except SystemError:
            gc.collect()
    return ast.parse(source)


def imports(source: str) -> Iterator[tuple[str, int, bool]]:
    """Each imported module with its line, and whether it is only for type checkers."""
    tree = parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in for_types
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                yield (f"{base}.{alias.name}" if base == "seawall" else base), node.lineno, id(node) in for_types


def check_floors(place: str, source: str) -> list[str]:
    """A room imports only from rooms below it."""
    room = place.split("/", maxsplit=1)[0]
    if room not in FLOORS:
        return []
    found = []
    for module, line, for_types in imports(source):
        parts = module.split(".")
        if parts[0] == "seawall" and len(parts) > 1 and not for_types:
            above = parts[1] not in FLOORS[room] | {room} and parts[1] in FLOORS
            found += [f"{place}:{line} {room} may not import {parts[1]}"] if above else []
    return found


def check_purity(place: str, source: str) -> list[str]:
    """Rules use math-like modules only."""
    if not any(place.startswith(pure) for pure in PURE_FILES):
        return []
    allowed = PURE | ({"re"} if place == "core/units.py" else set())
    return [
        f"{place}:{line} a rule may not import {module}"
        for module, line, _ in imports(source)
        if module.split(".")[0] not in allowed | {"seawall"}
    ]


def check_sizes(place: str, source: str) -> list[str]:
    """Functions end at 60 lines without their docstring, files at 400."""
    found = [f"{place} has {source.count(chr(10))} lines; split it by noun at 400"] if source.count("\n") > 400 else []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
            found += [f"{place}:{node.lineno} {node.name} has {length} lines; 60 is the end"] if length > 60 else []
    return found


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1


def check_bans(place: str, source: str) -> list[str]:
    """No pickle, eval, exec, marshal; no silent except; no print in a library; nothing left to do."""
    found = []
    for node in ast.walk(parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            generated = place == "pipeline/compiler.py" and name == "exec"
            found += [f"{place}:{line} {name}()"] if name in ("eval", "exec") and not generated else []
            spoken = name == "print" and place.split("/", maxsplit=1)[0] not in ("cli", "demo")
            found += [f"{place}:{line} print() in a library"] if spoken else []
        if isinstance(node, ast.ExceptHandler):
            found += [f"{place}:{line} bare except"] if node.type is None else []
            silent = all(isinstance(step, ast.Pass | ast.Continue) for step in node.body)
            found += [f"{place}:{line} silent except"] if silent else []
    found += [f"{place}:{line} {m}" for m, line, _ in imports(source) if m in ("pickle", "marshal", "shelve", "dill")]
    marks = enumerate(source.splitlines(), 1)
    return found + [f"{place}:{n} left to do" for n, text in marks if re.search(r"#.*\b(TODO|FIXME|XXX)\b", text)]


def check_twins(sync_source: str, async_source: str) -> list[str]:
    """The two guards are the same but for async and await."""
    sync, twin = _shapes(sync_source), _shapes(async_source)
    if not sync or list(sync) != list(twin):
        return [f"the guards have other functions: {list(sync)} and {list(twin)}"]
    return [f"{name} differs between the guards" for name in sync if sync[name] != twin[name]]


class _DropAsync(ast.NodeTransformer):
    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        fields = {name: getattr(node, name) for name in ast.FunctionDef._fields if hasattr(node, name)}
        return self.visit(ast.FunctionDef(**fields))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        return node

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        return self.generic_visit(ast.For(node.target, node.iter, node.body, node.orelse))

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        return self.generic_visit(ast.With(node.items, node.body))


def _shapes(source: str) -> dict[str, str]:
    functions = [n for n in parse(source).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: ast.dump(_DropAsync().visit(node)) for node in functions}


def check_drivers(sources: dict[str, str]) -> list[str]:
    """A third-party package is imported in one file per room. Each part of FastStream is a driver of its own."""
    users: dict[tuple[str, str], set[str]] = {}
    for place, source in sources.items():
        room = place.split("/")[0]
        for module, _, _ in imports(source):
            top = module.split(".")[0]
            if top == "faststream":
                top = ".".join(module.split(".")[:2])
            if top not in STANDARD | {"seawall", ""} and room not in ("demo", "cli"):
                users.setdefault((room, top), set()).add(place)
    return [f"{top} is imported in {sorted(places)}" for (_, top), places in users.items() if len(places) > 1]


def check_test_docstrings(place: str, source: str) -> list[str]:
    """Every test says in one sentence why it matters."""
    return [
        f"{place}:{node.lineno} {node.name} does not say why it matters"
        for node in ast.walk(parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not (ast.get_docstring(node) or "").strip()
    ]


def check_addresses(place: str, text: str) -> list[str]:
    """No address of a package index and no path of somebody's machine in what is shared."""
    marks = ["/" + "root/", "/" + "work/", "/" + "opt/", "pypi" + ".org", "find-" + "links=", "index" + "-url="]
    return [f"{place} holds {mark!r}" for mark in marks if mark in text]


def package() -> dict[str, str]:
    """Every source file of the package by its place in it."""
    return {str(path.relative_to(SRC)): path.read_text() for path in sorted(SRC.rglob("*.py"))}


@pytest.mark.parametrize("check", [check_floors, check_purity, check_sizes, check_bans])
def test_the_package_keeps_the_rules_of_the_house(check: Callable[[str, str], list[str]]) -> None:
    """The floors and the purity of the rules are laws; a wrong import today is a knot in a year."""
    sources = package()
    assert len(sources) > 30
    assert not [complaint for place, source in sources.items() for complaint in check(place, source)]


def test_the_guards_are_twins() -> None:
    """A fix in one guard that is forgotten in the other would be found by users."""
    guards = package()
    assert not check_twins(guards["pipeline/guard_sync.py"], guards["pipeline/guard_async.py"])


def test_drivers_are_imported_in_one_file_per_room() -> None:
    """A missing extra must have one place in which it is noticed."""
    assert not check_drivers(package())


def test_every_test_says_why_it_matters() -> None:
    """A test whose purpose nobody knows is deleted by the first who breaks it."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    assert len(tests) > 10
    assert not [c for path in tests for c in check_test_docstrings(str(path.relative_to(ROOT)), path.read_text())]


def test_nothing_shared_names_an_index_or_somebodys_machine() -> None:
    """What is committed must work, and read, the same everywhere."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout: nothing is known to be shared")
    texts = {place: ROOT / place for place in listed if place != "LICENSE" and (ROOT / place).is_file()}
    assert not [c for place, path in texts.items() for c in check_addresses(place, path.read_text(errors="replace"))]


def test_public_names_have_docstrings_and_exist() -> None:
    """The front door is documented where it is."""
    import seawall

    for name in seawall.__all__:
        thing = getattr(seawall, name)
        assert name == "Sink" or getattr(thing, "__doc__", None), f"{name} has no docstring"


@pytest.mark.parametrize(
    ("check", "place", "source"),
    [
        (check_floors, "core/a.py", "from seawall.pipeline.run import Run"),
        (check_floors, "saga/a.py", "import seawall.discovery.watch"),
        (check_floors, "policies/a.py", "from seawall import pipeline"),
        (check_purity, "policies/a.py", "import time"),
        (check_purity, "core/outcome.py", "from random import random"),
        (check_sizes, "core/a.py", "def f():\n" + "    x = 1\n" * 61),
        (check_sizes, "core/a.py", "x = 1\n" * 401),
        (check_bans, "core/a.py", "eval('1')"),
        (check_bans, "core/a.py", "import pickle"),
        (check_bans, "core/a.py", "print(1)"),
        (check_bans, "core/a.py", "try:\n    x\nexcept Exception:\n    pass"),
        (check_bans, "core/a.py", "try:\n    x\nexcept:\n    raise"),
        (check_bans, "core/a.py", "x = 1  # " + "TODO later"),
        (check_test_docstrings, "tests/a.py", "def test_x():\n    assert 1"),
        (check_addresses, "a.txt", "see https://pypi" + ".org/simple"),
    ],
)
def test_each_check_complains_when_it_should(check: Callable[[str, str], list[str]], place: str, source: str) -> None:
    """A check that cannot fail guards nothing."""
    assert check(place, source)


def test_the_checks_of_pairs_complain_when_they_should() -> None:
    """Twins that drifted and drivers in two files must be seen."""
    assert check_twins("def f(x): return g(x)", "async def f(x): return await h(x)")
    assert check_twins("", "")
    assert not check_twins("def f(x): return g(x)", "async def f(x): return await g(x)")
    assert check_drivers({"shared/a.py": "import redis", "shared/b.py": "import redis.client"})
    assert not check_drivers({"shared/a.py": "import redis", "saga/b.py": "import redis"})
