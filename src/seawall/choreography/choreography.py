"""A choreography: its handlers, declared once for all services, and a service that runs its share of them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Literal, TypeVar

from seawall.choreography.brokers.port import Broker, end, open_broker
from seawall.choreography.envelope import Envelope, kind_of, wrap
from seawall.choreography.errors import ChoreographyError, EventError, GraphError
from seawall.choreography.graph import Graph, Handler
from seawall.choreography.inbox import Inbox
from seawall.choreography.outbox import Tx
from seawall.choreography.relay import Relay
from seawall.choreography.stores.port import Session, Store, open_store
from seawall.choreography.tracker import Tracker

F = TypeVar("F", bound=Callable[..., Any])


class Choreography:
    """The events of one saga and who reacts to them.

    name: the topic. store: "sqlite:///FILE" or "postgresql://HOST/DATABASE", where the outbox and the inbox are; the business
    rows belong beside them. broker: "memory:" (one process, the default) or "nats://127.0.0.1:4222". correlation: the field of
    every event that says which saga it belongs to. starts, ends: events that come from outside, and that end the saga.
    ordered: on PostgreSQL, write events under a lock of their correlation, so that they are sent in the order of their
    commits; on SQLite that is always so. Default False. Raises GraphError when started, if the graph cannot work.
    """

    def __init__(
        self, name: str, *, correlation: str, store: str = "", broker: str = "memory:", starts: Iterable[type] = (),
        ends: Iterable[type] = (), ordered: bool = False,
    ) -> None:  # fmt: skip
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ChoreographyError(f"name must be of letters, digits, - and _; got {name!r}")
        self.name, self.correlation, self.store, self.broker = name, correlation, store, broker
        self.starts, self.ends, self.ordered = tuple(starts), tuple(ends), ordered
        self.handlers: dict[str, Handler] = {}

    def on(
        self, trigger: type, *, compensates: Callable[..., Any] | str | None = None, publishes: Iterable[type] | None = None,
        service: str | None = None, undo: bool = True,
    ) -> Callable[[F], F]:  # fmt: skip
        """Declare a handler `(event, tx)`. What it publishes is its return annotation, or `publishes`. compensates: the handler
        whose work it undoes. undo: False when its own work needs no undoing. service: who runs it, default the choreography's
        name. Raises GraphError for a name that is taken, EventError for what is no event."""
        kind_of(trigger)

        def declare(function: F) -> F:
            name = function.__name__
            if name in self.handlers:
                raise GraphError(f"there are two handlers {name!r}; the inbox knows them by their names")
            makes = tuple(publishes) if publishes is not None else _returns(function)
            undoes = compensates if isinstance(compensates, str) or compensates is None else compensates.__name__
            if undoes is not None and undoes not in self.handlers:
                raise GraphError(f"{name} compensates {undoes!r}, which is no handler of {self.name}")
            self.handlers[name] = Handler(name, service or self.name, trigger, makes, function, undoes, undo)
            return function

        return declare

    def graph(self) -> Graph:
        """What was declared, as a graph."""
        return Graph(self.handlers.values(), self.starts, self.ends)

    def check(self) -> None:
        """Raises GraphError, with every problem, unless the graph can work."""
        problems = self.graph().problems()
        if problems:
            raise GraphError(f"the choreography {self.name} cannot work: " + "; ".join(problems), problems)

    def mermaid(self) -> str:
        """The graph as a Mermaid picture."""
        return self.graph().mermaid()

    @contextlib.asynccontextmanager
    async def open(self, service: str | None = None, *, tracker: Tracker | None = None, **options: Any) -> AsyncIterator[Service]:
        """Run one service's handlers, or all of them, and its relay, until the block ends. options: as of `Service`."""
        self.check()
        made = Service(self, service, open_store(self.store), open_broker(self.broker), tracker, **options)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    @contextlib.asynccontextmanager
    async def relay(self, **options: Any) -> AsyncIterator[Relay]:
        """Run the relay of this store alone, until the block ends: for services that were opened with `relay=False`. options: as
        of `Relay`."""
        store, broker = open_store(self.store), open_broker(self.broker)
        broker.expect(self.name, self.groups())
        await store.open()
        await broker.start()
        made = Relay(store, broker, **options)
        running = [asyncio.create_task(made.run())]
        try:
            yield made
        finally:
            await end(running)
            await broker.stop()
            await store.close()

    def groups(self) -> list[str]:
        """Who reads the events: a group for each service that has handlers."""
        return sorted({f"{self.name}-{handler.service}" for handler in self.handlers.values()})


class Service:
    """One process's share of a choreography. tries, limit, retention: of its `Inbox`; relay: of its `Relay`, as a dict, or False
    when another process sends what this one writes."""

    def __init__(
        self, of: Choreography, service: str | None, store: Store, broker: Broker, tracker: Tracker | None, *, tries: int = 5,
        limit: float = 30.0, retention: float = 1_209_600.0, relay: dict[str, Any] | Literal[False] | None = None,
    ) -> None:  # fmt: skip
        self.of, self.name, self.store, self.broker, self.tracker = of, service or of.name, store, broker, tracker
        self.handlers = [h for h in of.handlers.values() if service is None or h.service == service]
        if service is not None and not self.handlers and tracker is None:
            raise ChoreographyError(f"service must be one that has handlers; got {service!r}")
        self.inbox = Inbox(store, topic=of.name, tries=tries, limit=limit, retention=retention, ordered=of.ordered)
        self.relay = Relay(store, broker, **(relay or {}))
        self._relays = relay is not False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Subscribe, connect, relay. Raises ChoreographyError when the database cannot be used."""
        await self.store.open()
        self.broker.expect(self.of.name, self.of.groups())
        if self.handlers:
            self.broker.subscribe(self.of.name, f"{self.of.name}-{self.name}", self.deliver)
        if self.tracker is not None:
            await self.tracker.bind(self)
            self.broker.subscribe(self.of.name, f"{self.of.name}-tracker", self.tracker.see)
        await self.broker.start()
        self._tasks.append(asyncio.create_task(self.inbox.keep_house()))
        if self._relays:
            self._tasks.append(asyncio.create_task(self.relay.run()))
        if self.tracker is not None:
            self._tasks.append(asyncio.create_task(self.tracker.watch()))

    async def stop(self) -> None:
        """Stop relaying and delivering; what was not sent is sent by the next one."""
        await end(self._tasks)
        await self.broker.stop()
        await self.store.close()

    async def deliver(self, envelope: Envelope) -> None:
        """Let each handler of this service that waits for the event handle it once."""
        for handler in self.handlers:
            if kind_of(handler.trigger).name == envelope.type:
                consumer = f"{self.of.name}.{handler.name}"
                await self.inbox.handle(consumer, envelope, handler.trigger, handler.function, self._maker(handler, envelope))
        self.relay.wake()

    def _maker(self, handler: Handler, envelope: Envelope) -> Callable[[Session], Tx]:
        return lambda session: Tx(session, envelope, self.name, handler.name)

    async def publish(self, value: Any, *, traceparent: str | None = None) -> Envelope:
        """Write an event in a transaction of its own; it is on its way when this returns. traceparent: of W3C Trace Context."""
        async with self.transaction() as begin:
            return begin(value, traceparent)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Begin]:
        """Your own rows and new events in one commit: call the block's value with an event; `await .run(sql, values)` and
        `.connection` are the database's."""
        async with self.store.transaction() as session:
            begin = Begin(self, session)
            yield begin
            await self.inbox.put(session, begin.published)
        self.relay.wake()

    async def replay(self, number: int) -> None:
        """Let a dead letter be handled, or sent, again. Raises ChoreographyError for a number that is none."""
        side, consumer, envelope = await self.inbox.revive(number)
        if side == "outbox":
            self.relay.wake()
            return
        if self.tracker is not None and consumer == f"{self.of.name}.tracker":
            await self.tracker.see(envelope)
        else:
            await self.deliver(envelope)
        await self.inbox.buried(number)


class Begin:
    """The transaction in which a saga begins. connection: the driver's own; published: what will be written at its end."""

    __slots__ = ("_service", "connection", "published", "run")

    def __init__(self, service: Service, session: Session) -> None:
        self._service, self.connection, self.run = service, session.connection, session.run
        self.published: list[Envelope] = []

    def __call__(self, value: Any, traceparent: str | None = None) -> Envelope:
        """Publish an event beside your rows."""
        of = self._service.of
        key = getattr(value, of.correlation, None)
        if not isinstance(key, (str, int)) or key == "":
            raise EventError(
                f"{type(value).__name__} needs the field {of.correlation!r}, a str or int: it says which saga it belongs to"
            )
        envelope = wrap(value, source=self._service.name, correlation=str(key), trace=traceparent)
        self.published.append(envelope)
        return envelope


def _returns(function: Callable[..., Any]) -> tuple[type, ...]:
    """The events of a return annotation. Raises GraphError when it cannot be read, or says something else."""
    if inspect.signature(function).return_annotation is inspect.Signature.empty:
        raise GraphError(f"{function.__name__} must say what it publishes: annotate its return, None for nothing")
    try:
        hint = typing.get_type_hints(function).get("return")
    except NameError as error:
        raise GraphError(f"the annotations of {function.__name__} cannot be read here ({error}): pass publishes=") from error
    origin = typing.get_origin(hint)
    parts = typing.get_args(hint) if origin is not None else (hint,)
    kinds = tuple(part for part in parts if part not in (None, type(None)))
    for kind in kinds:
        kind_of(kind)
    return kinds
