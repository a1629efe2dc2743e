"""Mutation testing of one file of rules: make one small mistake at a time, and see whether the fast tests notice.

`python tools/mutate.py src/seawall/policies/backoff.py TESTS...` appends to docs/mutation/<name>.txt, one line per mutant, and
goes on where it stopped. Work happens in a copy of the source tree, so that an interrupted run leaves nothing broken.
"""

from __future__ import annotations

import ast
import copy
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60  # seconds of one run of the tests: a mutant that hangs is killed

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


def killed(work: Path, tests: list[str]) -> bool:
    """Whether the tests notice."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", *tests]
    environment = {**os.environ, "PYTHONPATH": str(work / "src"), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_SEED": "0"}
    try:
        return (
            subprocess.run(command, cwd=work, env=environment, capture_output=True, timeout=PATIENCE, check=False).returncode != 0
        )
    except subprocess.TimeoutExpired:
        return True


def main(arguments: list[str]) -> int:
    """Mutate one file; 0 when at least 90 % of its mutants were killed."""
    target, tests = Path(arguments[0]).resolve().relative_to(ROOT), arguments[1:]
    report = ROOT / "docs" / "mutation" / f"{target.stem}.txt"
    report.parent.mkdir(parents=True, exist_ok=True)
    done = report.read_text().splitlines() if report.exists() else []
    source = (ROOT / target).read_text()
    tree = ast.parse(source)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        shutil.copytree(
            ROOT, work, ignore=shutil.ignore_patterns(".venv*", ".git", "site", ".hypothesis", ".*cache", "__pycache__")
        )
        if killed(work, tests):
            print("the tests fail without any mistake; mend that first")
            return 2
        todo = list(places(tree))
        for count, (number, kind) in enumerate(todo, 1):
            if count <= len(done):
                continue
            text, line = mutated(tree, number, kind)
            (work / target).write_text(text)
            verdict = "killed" if killed(work, tests) else "survived"
            done.append(f"{verdict} {kind} line {line}: {source.splitlines()[line - 1].strip()[:90] if line else ''}")
            report.write_text("\n".join(done) + "\n")
            print(f"{count}/{len(todo)} {done[-1]}", flush=True)
        (work / target).write_text(source)
    share = sum(entry.startswith("killed") for entry in done) / max(1, len(done))
    print(f"{target}: {share:.0%} of {len(done)} mutants killed")
    return int(share < 0.9)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
