"""`seawall check FILE`: what the pipelines of a file do in the worst case, and what in them would surprise."""

from __future__ import annotations

import json as codec
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from seawall.cli import BAD_INPUT


def check(file: Path, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Explain every pipeline of a TOML file, with warnings. The exit status is 1 when a pipeline has warnings, 2 for a bad file.

    Parameters
    ----------
    file
        A file with [pipelines.NAME] tables.
    json
        Print the findings as JSON.
    """
    from seawall.core.errors import ConfigError
    from seawall.pipeline.config import read

    try:
        told = [pipeline.explain() for pipeline in read(file).values()]
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    if json:
        print(codec.dumps([_plain(asdict(explanation)) for explanation in told], indent=1))
    else:
        print("\n\n".join(map(str, told)))
    return int(any(finding.severity == "warning" for explanation in told for finding in explanation.findings))


def _plain(explanation: dict[str, Any]) -> dict[str, Any]:
    """As JSON can say it: a wall time without a bound is null."""
    bounded = explanation["wall_time"] != float("inf")
    return {**explanation, "wall_time": explanation["wall_time"] if bounded else None}
