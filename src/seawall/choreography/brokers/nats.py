"""NATS JetStream through FastStream: one stream with file storage per topic, one durable consumer per group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

from faststream import AckPolicy
from faststream.nats import JStream, PullSub
from faststream.nats import NatsBroker as FastStreamBroker
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, StorageType

from seawall.choreography.brokers.port import Deliver
from seawall.choreography.envelope import Envelope
from seawall.choreography.errors import ChoreographyError, EventError

ACK_WAIT: Final = 5.0
_log = logging.getLogger("seawall.choreography")


class NatsBroker:
    """url: "nats://127.0.0.1:4222". One message of a group is out at a time, so a group's handlers see each key in order. A
    message is given again after ACK_WAIT seconds when the process that had it is gone. retry: seconds before a message that
    could not be handled is given again."""

    def __init__(self, url: str, *, retry: float = 0.2, ack_wait: float = ACK_WAIT) -> None:
        self.url, self.retry, self.ack_wait = url, retry, ack_wait
        quiet = logging.getLogger("seawall.choreography.nats")
        self._broker = FastStreamBroker(
            url, logger=quiet, apply_types=False, max_reconnect_attempts=-1, reconnect_time_wait=1, connect_timeout=5,
            allow_reconnect=True, ping_interval=5, error_cb=self._trouble,
        )  # fmt: skip
        self._streams: dict[str, Any] = {}

    async def _trouble(self, error: Exception) -> None:
        _log.warning("NATS: %s", error)

    def _stream(self, topic: str) -> Any:
        if topic not in self._streams:
            self._streams[topic] = JStream(topic, subjects=[f"{topic}.>"], storage=StorageType.FILE, declare=True)
        return self._streams[topic]

    def subscribe(self, topic: str, group: str, deliver: Deliver) -> None:
        """Give each message of a topic to `deliver`, one at a time."""
        config = ConsumerConfig(ack_wait=self.ack_wait, max_ack_pending=1, max_deliver=-1)

        async def keep(message: Any) -> Any:
            return message

        async def receive(message: Any) -> None:
            working = asyncio.create_task(self._extend(message))
            try:
                await deliver(Envelope.read(message.body))
            except EventError:
                _log.exception("a message of %s is dropped by %s: it is no event", topic, group)
                await message.reject()
            except Exception:
                _log.warning("an event of %s could not be handled by %s; it is given again", topic, group, exc_info=True)
                await message.nack(delay=self.retry)
            else:
                await message.ack()
            finally:
                working.cancel()

        self._broker.subscriber(
            f"{topic}.>", durable=group, stream=self._stream(topic), pull_sub=PullSub(batch_size=1, timeout=1.0), config=config,
            ack_policy=AckPolicy.MANUAL, decoder=keep,
        )(receive)  # fmt: skip

    def expect(self, topic: str, groups: Iterable[str]) -> None:
        """A stream keeps everything for whoever comes."""

    async def _extend(self, message: Any) -> None:
        """Say that a handler is still at work."""
        while True:
            await asyncio.sleep(self.ack_wait / 3)
            try:
                await message.raw_message.in_progress()
            except (NatsError, OSError) as error:
                _log.warning("NATS could not be told that a handler is at work: %s", error)

    async def start(self) -> None:
        """Connect, waiting for a server that is not up yet, and begin to deliver."""
        while True:
            try:
                return await self._broker.start()
            except (TimeoutError, OSError, NatsError) as error:
                _log.warning("NATS at %s cannot be reached: %s", self.url, error)
                await asyncio.sleep(0.2)

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Return when JetStream has acknowledged. The id lets it drop what it got twice."""
        headers = {"Nats-Msg-Id": envelope.id, "content-type": "application/cloudevents+json"}
        subject = f"{topic}.{envelope.type}"
        try:
            await self._broker.publish(envelope.text().encode(), subject, headers=headers, stream=topic, timeout=5.0)
        except (TimeoutError, NatsError, OSError) as error:
            raise ChoreographyError(f"NATS did not acknowledge event {envelope.id}: {error!r}") from error

    async def stop(self) -> None:
        """Disconnect."""
        await self._broker.stop()
