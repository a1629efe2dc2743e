"""The store on Redis or Valkey: one server, Sentinel, or Cluster, through redis-py. The only file of this room that imports it.

One script call carries all asks of a batch, over a connection of its own: the client's command layer would cost more than the
script. A script that the server lost (a restart, a failover) is sent again whole, within the same batch.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.crc import key_slot
from redis.retry import Retry

from seawall.core import units
from seawall.shared.coalesce import TaskBatches, ThreadBatches
from seawall.shared.port import Answer, Ask, Done, StoreDown
from seawall.shared.wire import Script, answers_of, packed, script_named, told

SCHEMES: Final = ("redis", "rediss", "unix", "valkey", "valkeys")


class RedisStore:
    """Counts on a Redis or Valkey server (6.2 or newer) that processes share. Connects at the first ask.

    url: "redis://host:port/db", "rediss://", "unix://path", "redis+sentinel://h1:p1,h2:p2/SERVICE?db=0", or
        "redis+cluster://h1:p1,h2:p2". Credentials as user:password before the host.
    budget: seconds that one ask may take in all, > 0, connecting included. Default 0.025. What takes longer is decided without
        the store.
    Raises ValueError or TypeError for a URL that cannot be read or a budget out of range.
    """

    at_once = False

    def __init__(self, url: str, *, budget: float | str = 0.025, script: Script | None = None) -> None:
        self.budget = units.seconds("budget", budget)
        self.url = url
        self.name = told(url)
        self._make = _Maker(url, self.budget)
        self._step = script or Script.named("step")
        self._threads = ThreadBatches(self.ask_all, self.budget)
        self._tasks = TaskBatches(self._send, self.budget)
        self._lock = threading.Lock()
        self._line: Any = None
        self._pool: _Pool | None = None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    # --- steps of limiters

    def ask(self, ask: Ask) -> Answer:
        """One step, for threads; those that come at the same time share round trips. Raises StoreDown."""
        return self._threads.ask(ask)

    def submit(self, ask: Ask, done: Done) -> None:
        """One step, for the running event loop."""
        self._tasks.submit(ask, done)

    def ask_all(self, asks: Sequence[Ask]) -> list[Answer]:
        """Several steps in order, in one round trip (per slot, on a cluster). Raises StoreDown."""
        if not self._make.cluster:
            return answers_of(self.call(self._step, *packed(asks)))
        found: dict[int, Answer] = {}
        for group in _by_slot(asks):
            answers = answers_of(self.call(self._step, *packed([asks[index] for index in group])))
            found.update(zip(group, answers, strict=True))
        return [found[index] for index in range(len(asks))]

    async def _send(self, asks: Sequence[Ask]) -> list[Answer]:
        if not self._make.cluster:
            return answers_of(await self.acall(self._step, *packed(asks)))
        groups = _by_slot(asks)
        calls = (self.acall(self._step, *packed([asks[index] for index in group])) for group in groups)
        found: dict[int, Answer] = {}
        for group, raw in zip(groups, await asyncio.gather(*calls), strict=True):
            found.update(zip(group, answers_of(raw), strict=True))
        return [found[index] for index in range(len(asks))]

    # --- any script

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        """Run a script, for threads. Raises StoreDown."""
        try:
            if self._make.cluster:
                return self._call_cluster(script, keys, arguments)
            with self._lock:
                return self._call_line(script, keys, arguments)
        except (redis.RedisError, OSError) as error:
            raise StoreDown(_why(error)) from error

    async def acall(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        """Run a script, for the running event loop. Raises StoreDown. On a cluster on a worker thread: under concurrent calls
        redis-py's asyncio cluster client sends some twice (seen with 8.1), which would charge them twice."""
        if self._make.cluster:
            return await asyncio.to_thread(self.call, script, keys, arguments)
        loop = asyncio.get_running_loop()
        holder = self._loops.get(loop)
        if holder is None:
            holder = self._loops[loop] = _AsyncLine(self._make)
            holder.keeper = self._until_the_loop_ends(loop, holder)
            await holder.keeper.__anext__()
        try:
            return await holder.call(script, keys, arguments)
        except (redis.RedisError, OSError) as error:
            raise StoreDown(_why(error)) from error

    def call_named(self, name: str, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        """Run the script lua/NAME.lua, for threads. Raises StoreDown."""
        return self.call(script_named(name), keys, arguments)

    async def acall_named(self, name: str, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        """Run the script lua/NAME.lua, for the running event loop. Raises StoreDown."""
        return await self.acall(script_named(name), keys, arguments)

    def look(self) -> list[str]:
        """What of the server's settings would break a promise: a policy that evicts counts, no replicas required for writes.

        Needs the right to run CONFIG GET; without it, or when the server does not answer, it says so instead.
        """
        pool = None if self._make.cluster else self._make.pool()
        client: Any = self._make.client() if pool is None else redis.Redis(connection_pool=pool.pool)
        try:
            found = client.config_get("maxmemory*") | client.config_get("min-replicas-to-write")
        except (redis.RedisError, OSError) as error:
            return [f"its settings could not be read: {_why(error)}"]
        finally:
            client.close()
            for each in [] if pool is None else [pool.pool, *pool.helpers]:
                each.close()
        found = {_told(name): _told(value) for name, value in found.items()}
        warnings = []
        if found.get("maxmemory", "0") != "0" and found.get("maxmemory-policy") != "noeviction":
            warnings.append(f"maxmemory-policy is {found.get('maxmemory-policy')}: evicted counts are forgotten; use noeviction")
        if self._make.sentinel and found.get("min-replicas-to-write", "0") == "0":
            warnings.append("min-replicas-to-write is 0: a partitioned primary goes on admitting until it is demoted; use 1")
        return warnings

    def reopen(self) -> None:
        """After a fork: connections of our own."""
        self._lock = threading.Lock()
        self._line = self._pool = None
        self._threads.reopen()
        self._loops = weakref.WeakKeyDictionary()

    def close(self) -> None:
        """Close the threads' connection; those of loops are closed by `aclose`. It connects again when it is asked."""
        with self._lock:
            line, self._line = self._line, None
            pool, self._pool = self._pool, None
        if line is not None:
            line.close() if self._make.cluster else line.disconnect()
        for helper in [] if pool is None else pool.helpers:
            helper.close()

    async def _until_the_loop_ends(self, loop: asyncio.AbstractEventLoop, holder: _AsyncLine) -> AsyncGenerator[None, None]:
        """Closes the loop's connection with the loop: asyncio ends the generators that are left, so nobody has to say it."""
        try:
            yield
        finally:
            if self._loops.get(loop) is holder:
                del self._loops[loop]
            await holder.close()

    async def aclose(self) -> None:
        """Close the running loop's connection."""
        holder = self._loops.pop(asyncio.get_running_loop(), None)
        if holder is not None:
            await holder.keeper.aclose()

    def _call_line(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        line, known = self._line, self._line is not None
        if self._pool is None:
            self._pool = self._make.pool()
        while True:
            try:
                if line is None:
                    line = self._line = self._pool.line()
                    line.connect()
                try:
                    line.send_command(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
                    return line.read_response()
                except redis.exceptions.NoScriptError:
                    line.send_command(b"EVAL", script.source, len(keys), *keys, *arguments)
                    return line.read_response()
            except BaseException as error:
                if not isinstance(error, redis.ResponseError) or isinstance(error, redis.ReadOnlyError):
                    self._line = None
                    if line is not None:
                        line.disconnect()
                if not (known and isinstance(error, redis.ConnectionError)):
                    raise
                line, known = None, False  # the server closed it while it was idle: once more on a new one

    def _call_cluster(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        with self._lock:
            if self._line is None:
                self._line = self._make.client()
            client = self._line
        try:
            return client.evalsha(script.sha.decode(), len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return client.eval(script.source.decode(), len(keys), *keys, *arguments)


class _AsyncLine:
    """One event loop's connection."""

    def __init__(self, make: _Maker) -> None:
        self._make = make
        self._line: Any = None
        self._pool: _Pool | None = None
        self._turn = asyncio.Lock()
        self.keeper: Any = None

    async def call(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        async with self._turn:
            return await self._call_line(script, keys, arguments)

    async def _call_line(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        known = self._line is not None
        if self._pool is None:
            self._pool = self._make.async_pool()
        while True:
            line = self._line
            try:
                if line is None:
                    line = self._line = self._pool.line()
                    await line.connect()
                try:
                    await line.send_command(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
                    return await line.read_response()
                except redis.exceptions.NoScriptError:
                    await line.send_command(b"EVAL", script.source, len(keys), *keys, *arguments)
                    return await line.read_response()
            except BaseException as error:
                if not isinstance(error, redis.ResponseError) or isinstance(error, redis.ReadOnlyError):
                    self._line = None
                    if line is not None:
                        await line.disconnect(nowait=True)
                if not (known and isinstance(error, redis.ConnectionError)):
                    raise
                known = False

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.disconnect()
        pool, self._pool = self._pool, None
        for helper in [] if pool is None else pool.helpers:
            await helper.aclose()


class _Pool(NamedTuple):
    """Makes connections. helpers: the sentinels' clients, which are to be closed as well."""

    pool: Any
    helpers: list[Any]

    def line(self) -> Any:
        """A connection, not yet connected; behind sentinels it asks them for the primary when it connects."""
        return self.pool.make_connection()


class _Maker:
    """From a URL to connections and clients, sync and async."""

    def __init__(self, url: object, budget: float) -> None:
        if not isinstance(url, str):
            raise TypeError(f'store must be a URL such as "redis://127.0.0.1:6379"; got {url!r}')
        self.url = url
        split = urlsplit(url)
        scheme, _, kind = split.scheme.partition("+")
        if scheme not in SCHEMES or kind not in ("", "sentinel", "cluster"):
            raise ValueError(
                'store must be a URL that begins with "redis://", "rediss://", "unix://", "redis+sentinel://" or '
                f'"redis+cluster://"; got {told(url)!r}'
            )
        self.sentinel, self.cluster = kind == "sentinel", kind == "cluster"
        self._options: dict[str, Any] = {
            "socket_timeout": budget,
            "socket_connect_timeout": budget,
            "protocol": 2,
            "driver_info": None,
            "retry": Retry(NoBackoff(), 0),
        }
        self._budget = budget
        self._plain = url.replace("valkey", "redis", 1) if scheme.startswith("valkey") else url
        if kind:
            self._hosts = list(_hosts(split.netloc.rpartition("@")[2]))
            self._service = split.path.strip("/")
            if self.sentinel and not self._service:
                raise ValueError(f"store must name the service behind its sentinels, as in .../mymaster; got {told(url)!r}")
            if split.username is not None or split.password is not None:
                self._options |= {"username": split.username or None, "password": split.password}
            if self.sentinel:
                self._options["db"] = int(parse_qs(split.query).get("db", ["0"])[0])
            if scheme in ("rediss", "valkeys"):
                self._options["ssl"] = True
        else:
            redis.connection.parse_url(self._plain)  # type: ignore[no-untyped-call]  # raises for a bad one

    def client(self) -> Any:
        """A cluster client for threads."""
        node: Any = redis.cluster.ClusterNode
        return RedisCluster(startup_nodes=[node(host, port) for host, port in self._hosts], **self._cluster_options())

    def pool(self) -> _Pool:
        """Where connections for threads come from."""
        if not self.sentinel:
            return _Pool(redis.ConnectionPool.from_url(self._plain, **self._options), [])
        sentinel = self._sentinel(redis.Sentinel)
        return _Pool(sentinel.master_for(self._service, **self._options).connection_pool, sentinel.sentinels)

    def async_pool(self) -> _Pool:
        """Where connections for tasks come from."""
        if not self.sentinel:
            return _Pool(redis.asyncio.ConnectionPool.from_url(self._plain, **self._options_async()), [])
        sentinel = self._sentinel(redis.asyncio.Sentinel)
        return _Pool(sentinel.master_for(self._service, **self._options_async()).connection_pool, sentinel.sentinels)

    def _options_async(self) -> dict[str, Any]:
        return self._options | {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0)}

    def _cluster_options(self) -> dict[str, Any]:
        return {key: value for key, value in self._options.items() if key != "db"}

    def _sentinel(self, make: Any) -> Any:
        options = {"socket_timeout": self._budget, "socket_connect_timeout": self._budget}
        return make(self._hosts, sentinel_kwargs=options | {"protocol": 2, "driver_info": None})


def _hosts(netloc: str) -> Iterable[tuple[str, int]]:
    for each in netloc.split(","):
        host, _, port = each.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"store must list its hosts as host:port,host:port; got {netloc!r}")
        yield host.strip("[]"), units.whole("port", int(port), most=65535)


def _by_slot(asks: Sequence[Ask]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, ask in enumerate(asks):
        groups.setdefault(key_slot(ask.keys[0].encode()), []).append(index)
    return list(groups.values())


def _told(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _why(error: BaseException) -> str:
    """The error's kind and the start of its text, without what an address may hold."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


__all__ = ["RedisStore", "Script", "told"]
