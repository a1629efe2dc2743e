"""The command line of the benchmarks: run areas, print a table with goals, write the rows as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Row

MODULES = {
    "guard": "benchmarks.guard",
    "limit": "benchmarks.limit",
    "import": "benchmarks.importing",
    "discovery": "benchmarks.discovery",
    "balance": "benchmarks.balance",
    "gateway": "benchmarks.gateway",
    "saga": "benchmarks.saga",
    "engines": "benchmarks.engines",
}
AREAS = tuple(MODULES)


def main(arguments: list[str] | None = None) -> int:
    """Run the areas asked for; 0 unless an area is unknown or the file cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("areas", nargs="+", choices=AREAS, metavar="AREA", help=f"one or more of {', '.join(AREAS)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; ends within 120 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON array")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for area in options.areas:
        found = importlib.import_module(MODULES[area]).rows(quick=options.quick)
        show(area, found)
        rows += found
    if options.json is not None:
        write(options.json, rows)
    return 0


def show(area: str, rows: list[Row]) -> None:
    """Print one area as a table."""
    print(f"\n{area}: {platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    width = max(len(row.name) for row in rows)
    for row in rows:
        mark = {None: "", True: "holds", False: "MISSED"}[row.holds]
        print(f"  {row.name:<{width}}  {row.value:>9.2f} {row.unit:<12} {row.goal or '':<10} {mark:<7} {row.versus}")


def write(path: Path, rows: list[Row]) -> None:
    """Write the rows whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as out:
        json.dump([row.as_json() for row in rows], out, indent=1)
    os.replace(out.name, path)


if __name__ == "__main__":
    sys.exit(main())
