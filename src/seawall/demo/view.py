"""Shows a telling while it runs: a live table where there is a terminal, plain lines where there is none."""

from __future__ import annotations

from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seawall.demo import report
from seawall.demo.figures import Part
from seawall.demo.story import Story
from seawall.demo.telling import Heard, Kind

COLUMNS = ("at", "offered", "good", "pending", "lost", "p50", "p99", "calls", "refused", "phase", "breaker")
COLOURS = {"closed": "green", "open": "red", "half_open": "yellow"}


class View(Protocol):
    """What `run` shows things on."""

    def say(self, lines: list[str]) -> None:
        """Show lines of text."""
        ...

    def begin(self, story: Story, kind: Kind) -> None:
        """A telling begins."""
        ...

    def show(self, heard: Heard) -> None:
        """So much is known of it now."""
        ...

    def end(self) -> None:
        """It is over, for whatever reason."""
        ...


class Plain:
    """One line per row, each printed once: for logs, pipes and CI."""

    def __init__(self) -> None:
        self._printed = 0

    def say(self, lines: list[str]) -> None:
        """Print lines."""
        print("\n".join(lines), flush=True)

    def begin(self, story: Story, kind: Kind) -> None:
        """Print the heading."""
        self._printed = 0
        self.say(["", report.title(story, kind), report.HEADING])

    def show(self, heard: Heard) -> None:
        """Print the rows that are new."""
        rows = heard.rows()
        if len(rows) > self._printed:
            self.say([report.row(row) for row in rows[self._printed :]])
            self._printed = len(rows)

    def end(self) -> None:
        """Nothing is left open."""


class LiveTable:
    """A table that grows while the shop runs, as far as the terminal is high."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._title = ""

    def say(self, lines: list[str]) -> None:
        """Print lines."""
        self._console.print("\n".join(lines), markup=False, soft_wrap=True)

    def begin(self, story: Story, kind: Kind) -> None:
        """Begin a table."""
        self._title = report.title(story, kind)
        self._console.print()
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, heard: Heard) -> None:
        """Draw what is known now."""
        if self._live is not None:
            rows = heard.rows()
            fits = len(rows) if heard.finished else max(5, self._console.height - 8)
            now = f"{heard.moment:5.1f} s  {heard.story.phase_at(heard.moment).name}"
            state = Text(f"now {now}   breaker {heard.breaker or '-'}" if not heard.finished else "the telling is over")
            self._live.update(Group(self._table(rows[-fits:]), state), refresh=True)

    def end(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, rows: list[Part]) -> Table:
        table = Table(title=self._title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in ("phase", "breaker") else "right", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row))
        return table


def _cells(row: Part) -> list[Text | str]:
    """What `COLUMNS` name; it all fits 80 columns."""
    good = Text(str(row.good), style="green" if row.good >= 0.9 * row.offered else "yellow" if row.good else "red")
    breaker = Text(row.breaker or "-", style=COLOURS.get(row.breaker, ""))
    counts = (str(row.pending), str(row.lost), f"{row.p50:.2f}", f"{row.p99:.2f}", str(row.calls), str(row.refused))
    return [f"{row.begins:.0f}", str(row.offered), good, *counts, row.name, breaker]
