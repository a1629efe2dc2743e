"""`seawall config show [FILE]`: every value that holds, with its origin."""

from __future__ import annotations

import json as codec
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from seawall.cli import BAD_INPUT

WIDEST = 80


def show(
    file: Path = Path("seawall.toml"),
    /,
    *,
    json: Annotated[bool, Parameter(negative=())] = False,
    folder: list[Path] | None = None,
) -> int:
    """Print every value of every pipeline with its origin: file and line, variable, folder, preset, or default. Values from
    secrets are not shown. The exit status is 2 for a file that cannot be used.

    Parameters
    ----------
    file
        A file with [pipelines.NAME] tables.
    json
        Print the values as JSON.
    folder
        A folder of single-value files that change the settings; may be given more than once.
    """
    from seawall.core.errors import ConfigError
    from seawall.pipeline.config import load

    config = load(file, folders=folder or ())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are printed below
            rows = config.settings()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    if json:
        print(codec.dumps([{"path": row.path, "value": row.value, "origin": asdict(row.origin)} for row in rows], default=_text))
        return 0
    width = min(WIDEST, max(len(str(row)) for row in rows))
    for row in rows:
        print(f"{row!s:{width}}  # {row.origin}")
    for finding in config.findings:
        print(finding, file=sys.stderr)
    return 0


def _text(value: Any) -> str:
    """What JSON has no word for, such as a type."""
    from seawall.pipeline.show import shown

    return shown(value)
