"""Every Python block of the README and the docs is run, page by page, so that none of them lies.

A block after `<!-- skip: reason -->` is not run, and says why. A ```text block after `<!-- output -->` is what the block
before it printed; `...` stands for anything.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import fnmatch
import inspect
import io
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?P<mark><!--[^>]*-->\s*)?^```(?P<kind>python|text)\n(?P<body>.*?)^```", re.M | re.S)


@dataclass
class Block:
    """One fenced block: its kind, its text, the comment before it, and the line it begins on."""

    kind: str
    body: str
    mark: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """All python and text blocks of a page, in order."""
    for match in FENCE.finditer(page):
        line = page.count("\n", 0, match.start("body")) + 1
        yield Block(match["kind"], match["body"], (match["mark"] or "").strip(), line)


def run_page(name: str, page: str) -> tuple[int, list[str]]:
    """Run a page's blocks in one namespace and one event loop; how many ran, and the reasons of those that did not."""
    module = types.ModuleType("snippet")
    sys.modules["snippet"] = module
    ran, skipped, printed = 0, [], ""
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if block.kind == "text":
                if block.mark == "<!-- output -->":
                    assert fnmatch.fnmatchcase(printed.strip(), _pattern(block.body.strip())), f"{name}:{block.line}\n{printed}"
                continue
            if block.mark.startswith("<!-- skip"):
                skipped.append(f"{name}:{block.line} {block.mark}")
                continue
            out = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.body, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            with contextlib.redirect_stdout(out):
                if code.co_flags & inspect.CO_COROUTINE:
                    runner.run(eval(code, module.__dict__))
                else:
                    exec(code, module.__dict__)
            printed = out.getvalue()
            ran += 1
    return ran, skipped


def _pattern(text: str) -> str:
    """A glob in which only `...` is special."""
    return re.sub(r"([\[\]*?])", r"[\1]", text).replace("...", "*")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(path: Path, seawall_time: object) -> None:
    """A new user's first minutes are copied from here."""
    _, skipped = run_page(str(path.relative_to(ROOT)), path.read_text())
    for reason in skipped:
        print("not run:", reason)


def test_a_lying_snippet_is_caught() -> None:
    """A runner that cannot fail proves nothing."""
    with pytest.raises(ZeroDivisionError):
        run_page("page", "```python\n1 / 0\n```\n")
    with pytest.raises(AssertionError):
        run_page("page", "```python\nprint(1)\n```\n\n<!-- output -->\n```text\n2\n```\n")
    told = "```python\nimport asyncio\nawait asyncio.sleep(0)\nprint('took 12 s [a]')\n```\n"
    told += "<!-- output -->\n```text\ntook ... s [a]\n```\n"
    assert run_page("page", told) == (1, [])
    assert run_page("page", "<!-- skip: needs a server -->\n```python\n1 / 0\n```\n")[1] == [
        "page:3 <!-- skip: needs a server -->"
    ]
