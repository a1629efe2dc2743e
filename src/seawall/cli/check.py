"""`seawall check FILE`: what the pipelines of a file do in the worst case, and what in them would surprise."""

from __future__ import annotations

import json as codec
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from seawall.cli import BAD_INPUT

FOUND = 1


def check(
    file: Path,
    /,
    *,
    json: Annotated[bool, Parameter(negative=())] = False,
    strict: Annotated[bool, Parameter(negative=())] = False,
    processes: int | None = None,
    folder: list[Path] | None = None,
) -> int:
    """Explain every pipeline of a TOML file, with all findings. The exit status is 0 when nothing in it is an error, 1 when
    something is (with --strict: a warning too), 2 for a file that cannot be used. Variables SEAWALL__... count as ever.

    Parameters
    ----------
    file
        A file with [pipelines.NAME] tables.
    json
        Print the explanations and findings as JSON.
    strict
        Warnings count as errors.
    processes
        How many processes run these pipelines; by default what the file, GUNICORN_CMD_ARGS or WEB_CONCURRENCY say.
    folder
        A folder of single-value files that change the settings; may be given more than once.
    """
    from seawall.core.errors import ConfigError
    from seawall.pipeline.config import load

    config = load(file, folders=folder or ())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are printed below
            told = [pipeline.explain(processes) for pipeline in config.pipelines.values()]
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except ValueError as error:  # --processes out of range
        print(error, file=sys.stderr)
        return BAD_INPUT
    if json:
        plain = {
            "pipelines": [_plain(asdict(explanation)) for explanation in told],
            "settings": [asdict(finding) for finding in config.findings],
        }
        print(codec.dumps(plain, indent=1))
    else:
        print("\n\n".join(map(str, [*told, *config.findings])))
    bad = ("error", "warning") if strict else ("error",)
    findings = [*config.findings, *(finding for explanation in told for finding in explanation.findings)]
    return FOUND if any(finding.severity in bad for finding in findings) else 0


def _plain(explanation: dict[str, Any]) -> dict[str, Any]:
    """As JSON can say it: a wall time without a bound is null."""
    bounded = explanation["wall_time"] != float("inf")
    return {**explanation, "wall_time": explanation["wall_time"] if bounded else None}
