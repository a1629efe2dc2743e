"""Mutation testing of one file of rules: make one small mistake at a time, and see whether the fast tests notice.

`python tools/mutate.py src/seawall/policies/backoff.py TESTS...` writes docs/mutation/<name>.txt, one line per mutant. A run
goes on where the last one stopped; over a complete report it tries the survivors again; after a change of the file it begins
anew. Survivors are explained in docs/mutation/survivors.txt, and the report repeats the reason. Work happens in a copy of the
source tree, so that an interrupted run leaves nothing broken; each mutant is tried in a forked child, to save pytest's start.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import hypothesis.stateful
import pytest

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "docs" / "mutation"
PATIENCE = 120.0  # seconds of the first run of the tests
LEAST, TIMES = 15.0, 6.0  # a mutant gets so many seconds, or times the length of the first run: one that hangs is killed

NOT_COPIED = (".venv*", ".git", "site", ".hypothesis", ".*_cache", "__pycache__")

_COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_COMPARISONS |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}


def places(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each node that can be mutated, by its number in the walk, with what is done to it."""
    for number, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
            yield number, "comparison"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC and not _is_text(node):
            yield number, "arithmetic"
        elif isinstance(node, ast.BoolOp):
            yield number, "and/or"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield number, "not"
        elif isinstance(node, ast.If | ast.IfExp):
            yield number, "condition"
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield number, "number"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield number, "call left out"


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in ast.walk(node)
    )


def mutated(tree: ast.Module, number: int, kind: str) -> tuple[str, int]:
    """The source with one mistake, and the line it is on."""
    tree = copy.deepcopy(tree)
    node = list(ast.walk(tree))[number]
    if isinstance(node, ast.Compare):
        node.ops[0] = _COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = _ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant):
        node.value = node.value + 1 if kind == "number" else node.value
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
    return ast.unparse(ast.fix_missing_locations(tree)), getattr(node, "lineno", 0)


def killed(work: Path, tests: list[str], seconds: float, *, keep_bytecode: bool = False) -> bool:
    """Whether the tests notice. They run in a child, which is ended when it hangs."""
    child = os.fork()
    if child == 0:
        _run(work, tests, keep_bytecode=keep_bytecode)
    patience = time.monotonic() + seconds
    while time.monotonic() < patience:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _run(work: Path, tests: list[str], *, keep_bytecode: bool) -> None:
    """The child: run the tests on the sources in `work`, and end with pytest's code."""
    code = 99
    try:
        hypothesis.settings.register_profile("mutate", phases=[hypothesis.Phase.generate], database=None)
        hypothesis.settings.load_profile("mutate")  # a failure is enough: nobody reads how small it can be made
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.chdir(work)
        sys.path.insert(0, str(work / "src"))
        sys.dont_write_bytecode = not keep_bytecode
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--hypothesis-seed=0"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is loaded already, on purpose
        code = int(pytest.main([*options, *tests]))
    finally:
        os._exit(code)


def notes(name: str) -> dict[tuple[str, str], str]:
    """Why survivors of a file survive: by kind and line of code. A line of the list is "name | kind | code | because ..."."""
    listed = REPORTS / "survivors.txt"
    found = {}
    for line in listed.read_text().splitlines() if listed.exists() else []:
        parts = [part.strip() for part in line.split(" | ", 3)]
        if len(parts) == 4 and parts[0] == name:
            found[parts[1], parts[2]] = parts[3]
    return found


class Report:
    """The report of one file: a header, and one line per mutant in the order of the walk."""

    def __init__(self, target: Path, source: str) -> None:
        self.path = REPORTS / f"{target.stem}.txt"
        self.name = target.stem
        self.code = source.splitlines()
        self.mark = f"# {target} sha256 {hashlib.sha256(source.encode()).hexdigest()[:16]}"
        before = self.path.read_text().splitlines() if self.path.exists() else []
        self.entries = [line for line in before if not line.startswith("#")] if before and before[0] == self.mark else []

    def entry(self, kind: str, line: int, *, dead: bool) -> str:
        """The line of one mutant."""
        return f"{'killed' if dead else 'survived'} {kind} line {line}: {self.code[line - 1].strip()[:90] if line else ''}"

    @property
    def killed(self) -> int:
        """How many were noticed."""
        return sum(entry.startswith("killed") for entry in self.entries)

    def write(self) -> None:
        """Header, then the mutants, each survivor with the reason that is known."""
        reasons = notes(self.name)
        head = f"# {self.killed} of {len(self.entries)} mutants killed, {self.killed / max(1, len(self.entries)):.1%}"
        self.entries = [_explained(entry.split("  -- ")[0], reasons) for entry in self.entries]
        self.path.write_text("\n".join([self.mark, head, *self.entries]) + "\n")


def _explained(entry: str, reasons: dict[tuple[str, str], str]) -> str:
    if entry.startswith("killed"):
        return entry
    kind, code = entry.removeprefix("survived ").split(": ", 1)
    reason = reasons.get((kind.rsplit(" line ", 1)[0], code.strip()))
    return entry if reason is None else f"{entry}  -- {reason}"


def main(arguments: list[str]) -> int:
    """Mutate one file; 0 when at least 90 % of its mutants were killed. Without tests: only write the reasons into the report."""
    target, tests = Path(arguments[0]).resolve().relative_to(ROOT), arguments[1:]
    REPORTS.mkdir(parents=True, exist_ok=True)
    source = (ROOT / target).read_text()
    tree, report = ast.parse(source), Report(target, source)
    todo = list(places(tree))
    if not tests:
        report.write()
        return int(len(report.entries) < len(todo))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        shutil.copytree(ROOT, work, ignore=shutil.ignore_patterns(*NOT_COPIED))
        began = time.monotonic()
        if killed(work, tests, PATIENCE, keep_bytecode=True):
            print("the tests fail without any mistake; mend that first")
            return 2
        patience = max(LEAST, TIMES * (time.monotonic() - began))
        for stale in (work / target).parent.rglob(f"{target.stem}.*.pyc"):
            stale.unlink()
        again = len(report.entries) == len(todo)
        for index, (number, kind) in enumerate(todo):
            known = index < len(report.entries)
            if known and not (again and report.entries[index].startswith("survived")):
                continue
            text, line = mutated(tree, number, kind)
            (work / target).write_text(text)
            entry = report.entry(kind, line, dead=killed(work, tests, patience))
            report.entries[index : index + 1] = [entry]
            report.write()
            print(f"{index + 1}/{len(todo)} {entry}", flush=True)
    report.write()
    print(f"{target}: {report.killed / max(1, len(todo)):.1%} of {len(todo)} mutants killed")
    return int(report.killed < 0.9 * len(todo))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
