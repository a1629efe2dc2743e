"""What the gateway serves over gRPC: resources for a fleet of Envoys (ADS), answers for their rate limits; it takes their logs.

The only file here that needs `grpcio` and `xds-protos`: the extra `seawall[xds]`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from seawall.gateway.access_log import entry
from seawall.gateway.resources import TYPES, Resources
from seawall.gateway.settings import Limits
from seawall.gateway.tls import Tls
from seawall.pipeline.limiter import RateLimiter
from seawall.policies.key_table import UNKEYED

# Importing them registers the messages that resources hold.
for _name in (
    "config.cluster.v3.cluster_pb2",
    "config.endpoint.v3.endpoint_pb2",
    "config.listener.v3.listener_pb2",
    "config.route.v3.route_pb2",
    "extensions.access_loggers.file.v3.file_pb2",
    "extensions.access_loggers.grpc.v3.als_pb2",
    "extensions.filters.http.fault.v3.fault_pb2",
    "extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "extensions.filters.http.ratelimit.v3.rate_limit_pb2",
    "extensions.filters.http.router.v3.router_pb2",
    "extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "extensions.transport_sockets.tls.v3.tls_pb2",
    "extensions.upstreams.http.v3.http_protocol_options_pb2",
):
    importlib.import_module(f"envoy.{_name}")

discovery_pb2: Any = importlib.import_module("envoy.service.discovery.v3.discovery_pb2")
als_pb2: Any = importlib.import_module("envoy.service.accesslog.v3.als_pb2")
rls_pb2: Any = importlib.import_module("envoy.service.ratelimit.v3.rls_pb2")
any_pb2: Any = importlib.import_module("google.protobuf.any_pb2")
json_format: Any = importlib.import_module("google.protobuf.json_format")

KINDS: Final = {url: kind for kind, url in TYPES.items()}
OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),  # an Envoy whose machine is gone is no stream for ever
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # and Envoy may ask the same of us
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)
BREATH: Final = 64
"""Requests of a log that are told before others have their turn."""
Tell = Callable[..., None]


def packed(kind: str, told: dict[str, Any]) -> Any:
    """A resource as protobuf. Raises ValueError for what Envoy's own definitions do not know."""
    try:
        return json_format.ParseDict({"@type": TYPES[kind], **told}, any_pb2.Any())
    except json_format.ParseError as error:
        raise ValueError(f"{kind}: {error}") from error


class Ads:
    """State-of-the-world resources for every Envoy that asks. A NACK is told, and that Envoy keeps its last good."""

    def __init__(self, tell: Tell) -> None:
        self.resources = Resources()
        self.rejected = 0
        self._tell = tell
        self._streams: set[asyncio.Event] = set()

    def publish(self, resources: Resources) -> bool:
        """Tell all streams; whether anything changed. Raises ValueError, and changes nothing, for what is no Envoy resource."""
        for kind in TYPES:
            for told in resources.of(kind).values():
                packed(kind, told)
        changed = resources.version() != self.resources.version()
        self.resources = resources
        for stream in self._streams:
            stream.set()
        return changed

    async def stream(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        """One Envoy, from its connection to its end."""
        conversation = Conversation(self, asyncio.Event())
        self._streams.add(conversation.wake)
        listener = asyncio.create_task(conversation.listen(requests))
        try:
            while not conversation.over:
                await conversation.wake.wait()
                conversation.wake.clear()
                for answer in conversation.answers():
                    yield answer
        finally:
            self._streams.discard(conversation.wake)
            listener.cancel()

    def nacked(self, kind: str, version: str, text: str) -> None:
        """An Envoy refused a version."""
        self.rejected += 1
        self._tell("gateway.rejected", complaints=(text[:2000],), resources=kind, version=version, count=self.rejected)


class Conversation:
    """What one Envoy subscribed to, and which version of each kind it was sent. wake: set when there may be something to say."""

    def __init__(self, ads: Ads, wake: asyncio.Event) -> None:
        self.wake = wake
        self.over = False
        self._ads = ads
        self._names: dict[str, tuple[str, ...]] = {}
        self._sent: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._nonces: dict[str, str] = {}
        self._count = 0

    async def listen(self, requests: AsyncIterator[Any]) -> None:
        """Take in subscriptions, ACKs and NACKs until the stream ends."""
        try:
            async for request in requests:
                self.heard(request)
        finally:
            self.over = True
            self.wake.set()

    def heard(self, request: Any) -> None:
        """One request. An answer to an older nonce says nothing about what holds now."""
        kind = KINDS.get(request.type_url)
        if kind is None or (request.response_nonce and request.response_nonce != self._nonces.get(kind)):
            return
        if request.HasField("error_detail"):
            self._ads.nacked(kind, self._sent.get(kind, ("", ()))[0], request.error_detail.message)
        self._names[kind] = tuple(request.resource_names)
        self.wake.set()

    def answers(self) -> list[Any]:
        """What has to be sent now: kinds that were asked for and whose content or names are new, referred-to first."""
        found = []
        for kind in TYPES:
            names = self._names.get(kind)
            if names is None:
                continue
            held = self._ads.resources.of(kind)
            chosen = {name: told for name, told in held.items() if not names or name in names}
            state = (self._ads.resources.version(kind), names)
            if self._sent.get(kind) == state or (not chosen and held):
                continue
            self._count += 1
            self._sent[kind], self._nonces[kind] = state, str(self._count)
            found.append(
                discovery_pb2.DiscoveryResponse(
                    version_info=state[0],
                    type_url=TYPES[kind],
                    nonce=str(self._count),
                    resources=[packed(kind, told) for told in chosen.values()],
                )
            )
        return found


class RateLimits:
    """Answers `envoy.service.ratelimit.v3` with our limiters: "limit" in a descriptor names one, what follows is its key."""

    def __init__(self, limits: Limits) -> None:
        # half of Envoy's patience: without the store there is still time to decide here, and to answer
        shared: dict[str, Any] = {} if limits.store is None else {"store": limits.store, "budget": limits.timeout / 2}
        self.limiters = {name: RateLimiter(one.spec, name=f"gateway-{name}", **shared) for name, one in limits.named.items()}

    async def answer(self, request: Any, _context: Any) -> Any:
        """Spend every limit that the descriptors name; over the limit when one of them is."""
        answer = rls_pb2.RateLimitResponse(overall_code=rls_pb2.RateLimitResponse.OK)
        cost = max(1, request.hits_addend)
        for descriptor in request.descriptors:
            entries = [(entry.key, entry.value) for entry in descriptor.entries]
            limiter = self.limiters.get(entries[0][1]) if entries and entries[0][0] == "limit" else None
            status = answer.statuses.add(code=rls_pb2.RateLimitResponse.OK)
            if limiter is None:
                continue
            decision = await limiter.adecide(entries[1][1] if len(entries) > 1 else UNKEYED, cost=cost)
            status.limit_remaining = max(0, int(decision.remaining))
            if not decision.allowed:
                status.code = answer.overall_code = rls_pb2.RateLimitResponse.OVER_LIMIT
                wait = decision.retry_after
                status.duration_until_reset.FromMilliseconds(round(min(wait, 1e6) * 1000))
        return answer


class AccessLogs:
    """Takes in what Envoys log of their requests. tell: emits an event of the gateway."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    async def take(self, requests: AsyncIterator[Any], _context: Any) -> Any:
        """One Envoy's log, from its connection to its end; the first message says whose it is."""
        listener = node = ""
        async for message in requests:
            if message.HasField("identifier"):
                listener, node = message.identifier.log_name, message.identifier.node.id
            for number, logged in enumerate(message.http_logs.log_entry):
                self._tell("gateway.request", node=node, listener=listener, **entry(logged))
                if number % BREATH == BREATH - 1:
                    await asyncio.sleep(0)
        return als_pb2.StreamAccessLogsResponse()


class Certificates:
    """The files of one TLS table, read again when they change: certificates of short life need no new start."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._stamps()
        self._first = self._read()

    def credentials(self) -> Any:
        """Of a server that lets in only who shows a certificate of our authority."""
        return grpc.dynamic_ssl_server_credentials(self._first, self.newer, require_client_authentication=True)

    def newer(self) -> Any:
        """What stands in the files now if that is new and fits together, else None. gRPC asks at every handshake."""
        try:
            now = self._stamps()
            if now == self._seen:
                return None
            self._tls.check()
            found = self._read()
        except (OSError, ValueError):
            return None  # in the middle of being changed: what was good holds
        self._seen = now
        return found

    def _paths(self) -> tuple[Path, Path, Path]:
        assert self._tls.cert is not None
        assert self._tls.key is not None
        assert self._tls.ca is not None
        return Path(self._tls.key), Path(self._tls.cert), Path(self._tls.ca)

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((found.st_ino, found.st_mtime_ns, found.st_size) for found in (path.stat() for path in self._paths()))

    def _read(self) -> Any:
        key, cert, ca = (path.read_bytes() for path in self._paths())
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)


class Server:
    """One gRPC server. port: 0 = a free one. address: an IP address. tls: what it shows, and whose callers it lets in; default
    None = plain, for the loopback interface only."""

    def __init__(
        self,
        port: int,
        *,
        address: str = "127.0.0.1",
        tls: Tls | None = None,
        ads: Ads | None = None,
        limits: RateLimits | None = None,
        logs: AccessLogs | None = None,
    ) -> None:
        self.port = port
        self._logs = logs
        self._address = f"[{address}]" if ":" in address else address
        self._tls = tls
        self._ads = ads
        self._limits = limits
        self._server: Any = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken, or a file of its TLS cannot be read."""
        server = grpc.aio.server(options=list(OPTIONS))
        server.add_generic_rpc_handlers(tuple(self._handlers()))
        place = f"{self._address}:{self.port}"
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(place)
            else:
                self.port = server.add_secure_port(place, Certificates(self._tls).credentials())
        except RuntimeError as error:
            raise OSError(f"{place} of the gRPC server cannot be opened: {error}") from error
        await server.start()
        self._server = server

    def _handlers(self) -> list[Any]:
        handlers = []
        if self._ads is not None:
            method = grpc.stream_stream_rpc_method_handler(
                self._ads.stream, discovery_pb2.DiscoveryRequest.FromString, discovery_pb2.DiscoveryResponse.SerializeToString
            )
            name = "envoy.service.discovery.v3.AggregatedDiscoveryService"
            handlers.append(grpc.method_handlers_generic_handler(name, {"StreamAggregatedResources": method}))
        if self._limits is not None:
            method = grpc.unary_unary_rpc_method_handler(
                self._limits.answer, rls_pb2.RateLimitRequest.FromString, rls_pb2.RateLimitResponse.SerializeToString
            )
            name = "envoy.service.ratelimit.v3.RateLimitService"
            handlers.append(grpc.method_handlers_generic_handler(name, {"ShouldRateLimit": method}))
        if self._logs is not None:
            method = grpc.stream_unary_rpc_method_handler(
                self._logs.take, als_pb2.StreamAccessLogsMessage.FromString, als_pb2.StreamAccessLogsResponse.SerializeToString
            )
            name = "envoy.service.accesslog.v3.AccessLogService"
            handlers.append(grpc.method_handlers_generic_handler(name, {"StreamAccessLogs": method}))
        return handlers

    async def stop(self) -> None:
        """Close every stream. Harmless when done twice."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0.2)
