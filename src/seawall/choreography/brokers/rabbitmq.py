"""RabbitMQ through FastStream: a durable exchange per topic, and a durable queue per group that gets a copy of everything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

from aio_pika.exceptions import AMQPError
from faststream.middlewares import AckPolicy
from faststream.rabbit import Channel, ExchangeType, RabbitExchange, RabbitQueue
from faststream.rabbit import RabbitBroker as FastStreamBroker

from seawall.choreography.brokers.port import Deliver
from seawall.choreography.envelope import Envelope
from seawall.choreography.errors import ChoreographyError, EventError

TROUBLE: Final = (AMQPError, OSError, TimeoutError, RuntimeError)  # a channel that closes meanwhile raises the last one
_log = logging.getLogger("seawall.choreography")


class RabbitMqBroker:
    """url: "amqp://user:password@127.0.0.1:5672/" (amqps:// for TLS). A queue has one active consumer, which has one message at a
    time, so a group's handlers see each key in order; another process takes over when its connection ends. A queue holds what was
    published since it was made, which any service of the choreography does; what is older, relays can publish again.

    retry: seconds before a message that could not be handled is handled again.
    """

    def __init__(self, url: str, *, retry: float = 0.2) -> None:
        self.retry = retry
        quiet = logging.getLogger("seawall.choreography.rabbitmq")
        self._broker = FastStreamBroker(
            url, logger=quiet, apply_types=False, fail_fast=False, reconnect_interval=0.5, graceful_timeout=1.0,
            default_channel=Channel(prefetch_count=1), timeout=5.0,
        )  # fmt: skip
        self._exchanges: dict[str, RabbitExchange] = {}
        self._groups: list[tuple[str, str]] = []

    def _exchange(self, topic: str) -> RabbitExchange:
        if topic not in self._exchanges:
            self._exchanges[topic] = RabbitExchange(topic, type=ExchangeType.FANOUT, durable=True)
        return self._exchanges[topic]

    def subscribe(self, topic: str, group: str, deliver: Deliver) -> None:
        """Give each message of a topic to `deliver`, one at a time."""

        async def keep(message: Any) -> Any:
            return message

        async def receive(message: Any) -> None:
            while True:
                try:
                    await deliver(Envelope.read(message.body))
                    break
                except EventError:
                    _log.exception("a message of %s is dropped by %s: it is no event", topic, group)
                    break
                except Exception:
                    _log.warning("an event of %s could not be handled by %s; it is given again", topic, group, exc_info=True)
                    await asyncio.sleep(self.retry)
            try:
                await message.ack()
            except TROUBLE as error:  # it is given again, and the inbox drops it
                _log.warning("RabbitMQ could not be told that an event was handled: %s", error)

        self._broker.subscriber(_queue(group), self._exchange(topic), ack_policy=AckPolicy.MANUAL, decoder=keep)(receive)

    def expect(self, topic: str, groups: Iterable[str]) -> None:
        """Their queues are made, so that they hold what is published before their services come."""
        self._groups += [(topic, group) for group in groups]

    async def start(self) -> None:
        """Connect, waiting for a server that is not up yet, and begin to deliver."""
        while True:
            try:
                await self._broker.connect()
                for topic, group in self._groups:
                    exchange = await self._broker.declare_exchange(self._exchange(topic))
                    await (await self._broker.declare_queue(_queue(group))).bind(exchange)
                return await self._broker.start()
            except TROUBLE as error:
                _log.warning("RabbitMQ cannot be reached: %s", error)
                await asyncio.sleep(0.2)

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Return when RabbitMQ has confirmed: for durable queues that is when the message is on disk."""
        try:
            await self._broker.publish(
                envelope.text().encode(), exchange=self._exchange(topic), persist=True, mandatory=False, message_id=envelope.id,
                content_type="application/cloudevents+json", timeout=5.0,
            )  # fmt: skip
        except TROUBLE as error:
            raise ChoreographyError(f"RabbitMQ did not confirm event {envelope.id}: {error!r}") from error

    async def stop(self) -> None:
        """Disconnect."""
        await self._broker.stop()


def _queue(group: str) -> RabbitQueue:
    return RabbitQueue(group, durable=True, arguments={"x-single-active-consumer": True})
