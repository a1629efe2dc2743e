"""What the tests of discovery share: polling with a deadline, children, servers on free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seawall.discovery import Instance, Snapshot


def ids(snapshot: Snapshot) -> list[str]:
    """The ids of those that are ready."""
    return [instance.id for instance in snapshot.ready]


async def silent(instance: Instance) -> bool:
    """A probe for addresses that are none: nothing may be sent to them."""
    return False


async def eventually(holds: Callable[[], Any], seconds: float = 20.0, *, every: float = 0.005) -> float:
    """Wait in real time until something holds; how long it took. Fails after `seconds`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "it never came to hold"
        await asyncio.sleep(every)
    return time.monotonic() - began


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Listener:
    """Something that accepts connections, as an instance does, on a free port."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *told: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering."""
        self._socket.close()


class Child:
    """A process of ours, ended by its own pid."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(command, **options)

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def freeze(self) -> None:
        """Stop it where it stands: it keeps its connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word, and wait for that."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def end(self) -> None:
        """End it politely, or else not."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def python(source: str, *words: str) -> list[str]:
    """A command that runs some lines of Python."""
    return [sys.executable, "-c", textwrap.dedent(source), *words]


@contextmanager
def children(*commands: list[str], **options: Any) -> Iterator[list[Child]]:
    """Run processes for as long as the block lasts."""
    started: list[Child] = []
    try:
        started.extend(Child(command, **options) for command in commands)
        yield started
    finally:
        for child in started:
            child.kill()


def wait_for_port(port: int, child: Child, seconds: float = 30.0, log: Path | None = None) -> None:
    """Block until something listens. Fails when the process ended before that."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        assert child.process.poll() is None, f"ended with {child.process.returncode}: {log.read_text()[-2000:] if log else ''}"
        assert time.monotonic() < end, "it never listened"
        time.sleep(0.02)
