"""Tables on the terminal: framed and coloured for eyes, plain columns for pipes and logs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

GOOD, UNDER_WAY, CARE, BAD = "green", "cyan", "yellow", "bold red"
STYLES: Final = {
    "completed": GOOD, "ready": GOOD, "closed": GOOD, "ok": GOOD,
    "pending": UNDER_WAY, "running": UNDER_WAY, "waiting": UNDER_WAY, "half_open": UNDER_WAY, "starting": UNDER_WAY,
    "compensating": CARE, "compensated": CARE, "compensated_partially": CARE, "failed": CARE, "rejected": CARE, "draining": CARE,
    "stuck": BAD, "open": BAD, "isolated": BAD, "unknown": BAD,
}  # fmt: skip


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns; the first one holds their names."""
    told = [[clean(word) for word in row] for row in rows]
    if sys.stdout.isatty():
        _framed(told)
        return
    widths = [max(len(row[column]) for row in told) for column in range(len(told[0]))]
    for row in told:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def _framed(rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*rows[0], box=SIMPLE_HEAD, pad_edge=False)
    for row in rows[1:]:
        made.add_row(*(Text(word, style=STYLES.get(word, "")) for word in row))
    Console(highlight=False).print(made)


def bar(began: float, ended: float, first: float, last: float, *, width: int = 24) -> str:
    """Where [began, ended] lies in [first, last], as a line of `width` characters; what is too short to see is one mark."""
    span = max(last - first, 1e-9)
    start = min(width - 1, max(0, int((began - first) / span * width)))
    stop = min(width, max(start + 1, round((ended - first) / span * width)))
    return "·" * start + "█" * (stop - start) + "·" * (width - stop)


def clean(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
