"""What the sync and the async service client share: everything that does not wait."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from seawall import presets
from seawall.balancing.attempt import Attempt, Call, ServiceClassifier, marked
from seawall.balancing.balancer import Balancer, BalancerSnapshot
from seawall.balancing.clients import transport_of
from seawall.balancing.clients.port import Options, Patience, Request, Wiring
from seawall.balancing.rules.host import Told
from seawall.balancing.rules.pickers import Picker
from seawall.core import units
from seawall.core.clock import Clock, SystemClock
from seawall.core.context import current, remaining
from seawall.core.events import Sink
from seawall.core.outcome import Repeat
from seawall.core.wire import IDEMPOTENCY_KEY, outgoing_headers
from seawall.discovery.instance import Snapshot, Watch, service_name
from seawall.discovery.registry import Registry
from seawall.pipeline.pipeline import Pipeline, PipelineSnapshot
from seawall.pipeline.run import UNMARKED, Identity

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
IDEMPOTENT: Final = SAFE | {"PUT", "DELETE"}
"""Methods that may be repeated (RFC 9110 9.2.2)."""
BODIES: Final = ("json", "content", "data")
_OPTIONS: Final = frozenset(Options.__annotations__)


@dataclass(frozen=True, slots=True)
class ServiceClientSnapshot:
    """One service client at one moment. source, age: how it knows the instances, and for how many seconds unconfirmed; running:
    requests under way, streams included."""

    service: str
    source: str
    age: float
    running: int
    balancer: BalancerSnapshot
    pipeline: PipelineSnapshot


class Service:
    """The part of a service client that never waits. Parameters: see `ServiceClient`."""

    way = "async"

    def __init__(
        self,
        service: str,
        registry: Registry | Watch | str,
        *,
        pipeline: Pipeline | None = None,
        balancer: Balancer | None = None,
        picker: str | Picker = "peak_ewma",
        zone: str | None = None,
        transport: str | Any = "httpx2",
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        idle: int = 100,
        wait: float | str = 5.0,
        drain: float | str = 5.0,
    ) -> None:
        self.service = service_name(service)
        if balancer is not None and (picker != "peak_ewma" or zone is not None):
            raise ValueError("picker and zone are the balancer's: say them there, or give no balancer")
        opened = Registry.open(registry) if isinstance(registry, str) else registry
        watches = getattr(opened, "watch", None)
        if watches is None and not hasattr(opened, "snapshot"):
            raise TypeError(f"registry must be a Registry, a Watch, or a URL such as 'sqlite:///registry.db'; got {registry!r}")
        self.watch: Any = opened if watches is None else watches(self.service)
        self._owns_watch = watches is not None
        given = presets.http(self.service) if pipeline is None else pipeline
        if not isinstance(given, Pipeline):
            raise TypeError(f"pipeline must be a Pipeline or None; got {given!r}")
        self.classifier = ServiceClassifier(given.classifier)
        self.pipeline = _seen_through(given, self.classifier, self.service)
        self.balancer = balancer or Balancer(picker, zone=zone, name=self.service)
        self.balancer.adopt(self.service, _own_clock(given))
        self._transport_name = transport
        self._wiring = Wiring(units.whole("idle", idle, least=0), tls, server_name)
        if isinstance(transport, str):
            transport_of(transport, self.way)  # what is missing is said here, not at the first request
        elif not hasattr(transport, "send"):
            raise TypeError(f"transport must be a name such as 'httpx2', or have send() and close(); got {transport!r}")
        self._headers = dict(headers or {})
        self._wait = units.seconds("wait", wait, zero=True)
        self._drain = units.seconds("drain", drain, zero=True)
        self._transport: Any = None
        self._unsubscribe: Callable[[], None] | None = None
        self._running = 0
        self._counting = threading.Lock()
        self._idle: Any = None
        self._watching = False

    # --- what it says

    @property
    def clock(self) -> Clock:
        """Where its time comes from: the pipeline's."""
        return self.pipeline.clock

    @property
    def running(self) -> int:
        """Requests under way, streams included."""
        return self._running

    def snapshot(self) -> ServiceClientSnapshot:
        """What it holds now."""
        known: Snapshot = self.watch.snapshot
        age = known.age(self.clock.monotonic()) if known.known else 0.0
        return ServiceClientSnapshot(
            self.service, known.source, age, self._running, self.balancer.snapshot(), self.pipeline.snapshot()
        )

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Hand the events of its calls, policies and balancer to `sink`; calling the result ends it."""
        endings = [self.pipeline.subscribe(sink), self.balancer.subscribe(sink)]

        def unsubscribe() -> None:
            for end in endings:
                end()

        return unsubscribe

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.service!r} through {self.pipeline.name!r}>"

    # --- life, the parts that do not wait

    def _begin(self) -> None:
        """The watch runs: follow it, and make the pool."""
        name = self._transport_name
        self._transport = transport_of(name, self.way)(self._wiring) if isinstance(name, str) else name
        self._unsubscribe = self.watch.subscribe(self.balancer.update)
        self.balancer.update(self.watch.snapshot)

    def _unfollow(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _refuse_if_open(self) -> None:
        if self._transport is not None:
            raise RuntimeError(f"the client of {self.service} is open already; make another one")

    def _refuse_if_closed(self) -> None:
        if self._transport is None or self._unsubscribe is None:
            raise RuntimeError(f"the client of {self.service} is not open; use it inside its `with` block")

    # --- one call, the parts that do not wait

    def _call(self, method: str, path: str, options: Options) -> tuple[Call, Identity]:
        """Read what is asked for. Raises TypeError or ValueError by name for what cannot be meant, RuntimeError when closed."""
        self._refuse_if_closed()
        unknown = options.keys() - _OPTIONS
        if unknown:
            raise TypeError(f"a request takes {', '.join(sorted(_OPTIONS))}; got {', '.join(sorted(unknown))}")
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f"path must begin with '/': the instance is chosen here; got {path!r}")
        given: Mapping[str, Any] = options
        body = {name: given[name] for name in BODIES if name in given and (name == "json" or given[name] is not None)}
        if len(body) > 1:
            raise ValueError(f"a request has one body; got {' and '.join(body)}")
        if not isinstance(body.get("content", b""), bytes | str):
            raise TypeError("content must be bytes or text: a stream could be sent to one instance only, once")
        verb, own_key = method.upper(), options.get("idempotency_key")
        request = Request(verb, path, options.get("params"), body)
        left = remaining()
        until = None if left is None else self.clock.monotonic() + left
        call = Call(request, {**self._headers, **(options.get("headers") or {})}, options.get("key"), own_key, until)
        return call, _identity(verb, own_key, idempotent=options.get("idempotent"))

    def _outgoing(self, call: Call) -> dict[str, str]:
        """The headers of one attempt: the caller's, and of ours those that it did not set."""
        named = dict(call.headers)
        taken = {name.lower() for name in named}
        for name, value in outgoing_headers().items():
            wanted = name != IDEMPOTENCY_KEY or call.request.method not in SAFE or call.idempotency_key is not None
            if wanted and name.lower() not in taken:
                named[name] = value
        return named

    def _patience(self, *, whole: bool) -> Patience:
        """What the context leaves to the parts of an attempt. whole: also bound each part by the nearest deadline, for code that
        no timer can cut."""
        context = current()
        left = remaining() if whole else None
        if left is None:
            return Patience(context.connect, context.read)
        left = max(left, 0.001)
        return Patience(min(left, context.connect or left), min(left, context.read or left))

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
        """An attempt ended with an error: settle it. A cut that the service has not to answer for goes on without its mark, so
        that circuits do not count it."""
        try:
            verdict = self.classifier.plain(error=error)
            ours = self._transport is not None and self._transport.is_ours(error)
            told = attempt.failed(error, verdict, ours=ours, pipeline=self.pipeline)
            if told is Told.REFUSED:
                self.watch.unreachable(attempt.pick.host.id)
        finally:
            attempt.drop()
        if attempt.spared and marked(error):
            raise type(error)() from error

    def _answered(self, attempt: Attempt, response: Any) -> None:
        """An attempt has its answer: settle it."""
        try:
            attempt.answered(self.classifier.plain(answer=response))
        finally:
            attempt.drop()

    def _good(self, response: Any) -> bool:
        """Whether an answer is none that could be repeated."""
        return self.classifier.plain(answer=response).repeat is Repeat.NEVER

    def _started(self) -> None:
        with self._counting:
            self._running += 1

    def _ended(self) -> None:
        with self._counting:
            self._running -= 1
            idle = None if self._running else self._idle
        if idle is not None:
            idle.set()


def _identity(method: str, key: str | None, *, idempotent: bool | None) -> Identity:
    if key is not None:
        if not isinstance(key, str) or not key:
            raise TypeError(f"idempotency_key must be a text that is not empty; got {key!r}")
        return Identity(idempotent=True, key=lambda call: call.idempotency_key)
    marked_so = method in IDEMPOTENT if idempotent is None else idempotent
    return Identity(idempotent=True) if marked_so else UNMARKED


def _seen_through(pipeline: Pipeline, classifier: ServiceClassifier, service: str) -> Pipeline:
    """The same policies under another classifier: the very circuits and limits, seen from in front of several instances."""
    name = service if pipeline.name == "pipeline" else pipeline.name
    view = Pipeline(*pipeline.policies, name=name, clock=_own_clock(pipeline), classifier=classifier, observe=pipeline.observes)
    view.sinks.add(pipeline.sinks.emit)
    return view


def _own_clock(pipeline: Pipeline) -> Clock | None:
    """The clock that the pipeline was given, or None for the system's."""
    if not pipeline.policies:
        return None if isinstance(pipeline.clock, SystemClock) else pipeline.clock
    return next((policy.own_clock for policy in pipeline.policies if policy.own_clock is not None), None)
