"""What our saga costs on an engine of others, beside a workflow that was written for it by hand: the same three empty steps."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.saga import Engine, temporal_server


def rows(*, quick: bool = False) -> list[Row]:
    """The engines area: both in turn, round after round, on one server; the best round of each counts."""
    if find_spec("temporalio") is None:
        print("temporalio is not installed; see requirements/bench.in", file=sys.stderr)
        return []
    found = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(temporal_server(folder))
        engines = {"hand": Engine("temporal", address), "ours": Engine("seawall-temporal", f"temporal://{address}")}
        for engine in engines.values():
            stack.callback(engine.close)
        for at_once, count in ((1, 20), (50, 200)):
            best = dict.fromkeys(engines, float("inf"))
            for _ in range(3 if quick else 8):
                for name, engine in engines.items():
                    best[name] = min(best[name], engine.run(at_once, count)[0])
            said = f"{1 / best['hand']:.0f} by hand, {1 / best['ours']:.0f} per s ours, Temporal's development server"
            ratio = best["hand"] / best["ours"]
            found.append(Row(f"Temporal, {at_once} at once, of the hand-written workflow", ratio, "x", ">= 0.85", said))
    return found
