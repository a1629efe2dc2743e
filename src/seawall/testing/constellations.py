"""Several real servers together: a primary with a replica under Sentinels, and a Cluster; on loopback."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Final

from seawall.testing.servers import READY_WITHIN, RedisServer, free_port

SERVICE: Final = "limits"


class Sentinels:
    """A primary, a replica and three sentinels with a quorum of two, for `with`.

    down_after: seconds of silence after which a sentinel takes the primary for dead. strict: whether the primary refuses writes
    while no replica follows it (min-replicas-to-write 1).
    """

    def __init__(self, *, down_after: float = 0.5, strict: bool = False) -> None:
        self._down_after = int(down_after * 1000)
        self._strict = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "1") if strict else ()
        self._stack = ExitStack()
        self.data: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        """For a store."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def primary(self) -> RedisServer:
        """The server that the sentinels take for the primary now."""
        for sentinel in self.sentinels:
            answer = sentinel.send(f"SENTINEL get-master-addr-by-name {SERVICE}".encode()).split(b"\r\n")
            for server in self.data:
                if str(server.port).encode() in answer:
                    return server
        raise RuntimeError("no sentinel knows a primary")

    def __enter__(self) -> Sentinels:
        with ExitStack() as stack:
            primary = stack.enter_context(RedisServer("valkey", "--repl-diskless-sync-delay", "0"))
            follows = ("--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0")
            replica = stack.enter_context(RedisServer("valkey", *follows))
            self.data = [primary, replica]
            _until(lambda: b"master_link_status:up" in replica.send(b"INFO replication"), "the replica to follow")
            if self._strict:
                primary.send(b"CONFIG SET min-replicas-max-lag 1")
                primary.send(b"CONFIG SET min-replicas-to-write 1")
            self.sentinels = [stack.enter_context(RedisServer(sentinel=self._config(primary.port))) for _ in range(3)]
            for sentinel in self.sentinels:
                _until(lambda s=sentinel: self._is_ready(s), "the sentinels to know each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in [*self.data, *self.sentinels]:
            _resume(server)
        self._stack.close()

    def _config(self, port: int) -> str:
        return (
            f"sentinel monitor {SERVICE} 127.0.0.1 {port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after}\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
        )

    def _is_ready(self, sentinel: RedisServer) -> bool:
        known = sentinel.send(f"SENTINEL ckquorum {SERVICE}".encode())
        replicas = sentinel.send(f"SENTINEL replicas {SERVICE}".encode())
        others = sentinel.send(f"SENTINEL sentinels {SERVICE}".encode())
        return known.startswith(b"+OK 3") and replicas.startswith(b"*1") and others.startswith(b"*2")


class Cluster:
    """Three primaries of one cluster, for `with`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: list[RedisServer] = []

    @property
    def url(self) -> str:
        """For a store."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            for _ in range(3):
                options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
                self.nodes.append(stack.enter_context(RedisServer("valkey", *options)))
            first, slots = self.nodes[0], 16384 // 3 + 1
            for index, node in enumerate(self.nodes):
                last = min(16383, (index + 1) * slots - 1)
                node.send(f"CLUSTER ADDSLOTSRANGE {index * slots} {last}".encode())
                bus = self._bus(node)
                first.send(f"CLUSTER MEET 127.0.0.1 {node.port} {bus}".encode())
            for node in self.nodes:
                _until(lambda n=node: b"cluster_state:ok" in n.send(b"CLUSTER INFO"), "the cluster to agree")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _bus(self, node: RedisServer) -> str:
        return str(node.options[list(node.options).index("--cluster-port") + 1])


def _until(true: object, what: str) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {READY_WITHIN:g} s for {what}")
        time.sleep(0.05)


def _resume(server: RedisServer) -> None:
    try:
        server.resume()
    except (OSError, RuntimeError, ProcessLookupError):
        return  # it was ended by the test
