"""What a broker must do, and the table of brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from typing import Any, Final, Protocol

from seawall.choreography.envelope import Envelope
from seawall.choreography.errors import ChoreographyError
from seawall.core.errors import MissingExtra

Deliver = Callable[[Envelope], Awaitable[None]]
BROKERS: Final = {
    "memory": ("seawall.choreography.brokers.memory:MemoryBroker", ""),
    "nats": ("seawall.choreography.brokers.nats:NatsBroker", "nats"),
    "amqp": ("seawall.choreography.brokers.rabbitmq:RabbitMqBroker", "rabbitmq"),
    "amqps": ("seawall.choreography.brokers.rabbitmq:RabbitMqBroker", "rabbitmq"),
    "kafkas": ("seawall.choreography.brokers.kafka:KafkaBroker", "kafka"),
    "kafka": ("seawall.choreography.brokers.kafka:KafkaBroker", "kafka"),
    "redis": ("seawall.choreography.brokers.redis:RedisBroker", "redis-streams"),
    "rediss": ("seawall.choreography.brokers.redis:RedisBroker", "redis-streams"),
}


class Broker(Protocol):
    """A broker gives each message to each group at least once, in order per group unless it says otherwise."""

    async def start(self) -> None:
        """Connect, and begin to deliver."""
        ...

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Return when the broker has the message for good; raise when that is not known."""
        ...

    def subscribe(self, topic: str, group: str, deliver: Deliver) -> None:
        """Before the start: give each message of a topic to `deliver`; acknowledged when it returns, else given again."""
        ...

    def expect(self, topic: str, groups: Iterable[str]) -> None:
        """Before the start: these groups there are, here or in other processes; what is published from now on is for them too."""
        ...

    async def stop(self) -> None:
        """Stop delivering and disconnect."""
        ...


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: a cancellation that meets a time-out of a client is lost in it."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1.0)


def open_broker(url: str) -> Broker:
    """The broker of a URL. Raises ChoreographyError for an unknown scheme, MissingExtra when its extra is not installed."""
    scheme = url.partition(":")[0]
    if scheme not in BROKERS:
        raise ChoreographyError(
            f"broker must be one of {', '.join(f'{name}:' for name in BROKERS)}; got {scheme!r} as its scheme"
        )
    place, extra = BROKERS[scheme]
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("faststream", "nats", "redis", "aio_pika", "confluent_kafka"):
            raise
        raise MissingExtra(f'the broker {scheme}: needs an extra: pip install "seawall[{extra}]"') from error
    broker: Broker = found(url)
    return broker
