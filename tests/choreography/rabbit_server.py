"""A real RabbitMQ out of Debian's packages, unpacked and not installed: own node, own data, own epmd, all on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.discovery.servers import free_port, unpacked

ERLANG = (
    "asn1", "base", "crypto", "eldap", "inets", "mnesia", "os-mon", "parsetools", "public-key", "runtime-tools", "ssl",
    "syntax-tools", "tools", "xmerl",
)  # fmt: skip
SHIM = """#!/bin/sh
export ROOTDIR={erlang} BINDIR={bin} EMU=beam PROGNAME=erl
exec {bin}/erlexec "$@"
"""


class Rabbit:
    """One node on files of its own; `kill` and `start` keep them. Skips, with the reason, where the packages cannot be had."""

    def __init__(self, home: Path) -> None:
        root = unpacked("bookworm", "rabbitmq-server", *(f"erlang-{part}" for part in ERLANG))
        erlang = root / "usr/lib/erlang"
        binaries = next(erlang.glob("erts-*")) / "bin"
        (home / "bin").mkdir(parents=True)
        shim = home / "bin" / "erl"  # Debian's own names the place where it would be installed
        shim.write_text(SHIM.format(erlang=erlang, bin=binaries))
        shim.chmod(0o755)
        (home / "env").write_text("")
        (home / "plugins").write_text("[].")
        self.port, names = free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._home = home
        self._program = next((root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
        self._environment = {
            **os.environ, "HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_NODENAME": f"shop{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()), "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"), "RABBITMQ_CONFIG_FILE": str(home / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"), "RABBITMQ_CONF_ENV_FILE": str(home / "env"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        }  # fmt: skip
        self._names = subprocess.Popen([str(binaries / "epmd"), "-port", str(names), "-address", "127.0.0.1"])
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the node and wait until it takes connections."""
        with (self._home / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [str(self._program)], env=self._environment, stdout=out, stderr=out, start_new_session=True
            )
        end = time.monotonic() + 90
        while not self._greets():
            told = (self._home / "out").read_text(errors="replace")[-1500:]
            assert self.process.poll() is None, told
            assert time.monotonic() < end, told
            time.sleep(0.1)

    def _greets(self) -> bool:
        """A listener that greets is a broker that has booted."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
                line.sendall(b"AMQP\x00\x00\x09\x01")
                return line.recv(8)[:1] == b"\x01"
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL to the node and its script."""
        process, self.process = self.process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End everything that was started."""
        self.kill()
        self._names.kill()
        self._names.wait()
