"""The `seawall` command. One file per command; what it works on is imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

NEEDS_CLI = 'The seawall command needs two packages more: pip install "seawall[cli]"'
BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. argv: the words after `seawall`; None = those of this process."""
    try:
        from seawall.cli.app import run

        return run(sys.argv[1:] if argv is None else argv)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("cyclopts", "rich"):
            raise
        print(NEEDS_CLI, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
