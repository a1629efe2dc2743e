"""Fixtures of the saga tests: a ledger, worker processes, and both journals behind one URL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


class Workers:
    """Worker processes of this test; all of them are gone when it ends."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(self, url: str, ledger: Path, *options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "fault_worker.py"), url, str(ledger), *map(str, options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.all.append(process)
        return process

    def started(self, url: str, ledger: Path, *options: Any) -> subprocess.Popen[str]:
        """One that says that it is ready."""
        process = self.start(url, ledger, *options)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready"), line
        return process

    def close(self) -> None:
        for process in self.all:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """A way to start worker processes."""
    made = Workers()
    yield made
    made.close()
