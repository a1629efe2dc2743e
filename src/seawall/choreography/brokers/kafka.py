"""Kafka: a topic per choreography, events keyed by their saga, a consumer group per group, read by librdkafka's own client.

FastStream's subscriber does not ask Kafka anything while a handler is at work, so a group that grows meanwhile stands still, and
then gives the event in hand to another process as well: docs/decisions/0061.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from seawall.choreography.brokers import kafka_url
from seawall.choreography.brokers.port import Deliver, end
from seawall.choreography.envelope import Envelope
from seawall.choreography.errors import ChoreographyError, EventError

T = TypeVar("T")
ACKNOWLEDGED_IN: Final = 5.0  # seconds for an event to be acknowledged in
POLL: Final = 0.1  # seconds that one question to the client may take
UNASKED: Final = 1.0  # seconds of handling after which Kafka is asked beside it, so that the group can change
GRACE: Final = 60.0  # seconds for a handler to end in when its partition goes to another process; then it is cancelled
TROUBLE: Final = (KafkaException, OSError, RuntimeError)
TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_log = logging.getLogger("seawall.choreography")
_quiet = logging.getLogger("seawall.choreography.kafka")


class KafkaBroker:
    """url: "kafka://127.0.0.1:9092", more servers after commas; TLS and a login: `kafka_url.read`.

    Kafka divides a topic's partitions, and with them the keys, among the processes of a group; each has one event at a time, so
    handlers see each key in order. Topics are made by the cluster (`auto.create.topics.enable`), or by you with as many
    partitions as processes may share the work.

    retry: seconds before a message that could not be handled is handled again. ack_wait: seconds without a sign of life after
    which the partitions of a process go to others, >= 6 unless the cluster's `group.min.session.timeout.ms` says otherwise.
    """

    def __init__(self, url: str, *, retry: float = 0.2, ack_wait: float = 6.0) -> None:
        for name, value in (("retry", retry), ("ack_wait", ack_wait)):
            if not value > 0:
                raise ChoreographyError(f"{name} must be seconds > 0; got {value!r}")
        self.retry, self.ack_wait = retry, ack_wait
        self.settings = kafka_url.read(url)
        self._topics: set[str] = set()
        self._lanes: list[_Lane] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._sender: _Sender | None = None

    def subscribe(self, topic: str, group: str, deliver: Deliver) -> None:
        """Give each message of a topic to `deliver`, one at a time."""
        self._topics.add(_topic(topic))
        self._lanes.append(_Lane(topic, group, deliver, self._reading(group), self.retry))

    def expect(self, topic: str, groups: Iterable[str]) -> None:
        """A topic keeps everything for whoever comes, as long as its retention says."""

    def _reading(self, group: str) -> dict[str, Any]:
        pause = int(self.ack_wait * 1000)
        return {
            **_connection(self.settings), "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "session.timeout.ms": pause, "heartbeat.interval.ms": max(1, pause // 3), "max.poll.interval.ms": max(300_000, pause),
            "partition.assignment.strategy": "range",
        }  # fmt: skip

    async def start(self) -> None:
        """Connect, waiting for a server that is not up yet, and begin to deliver."""
        self._sender = sender = _Sender(self.settings)
        while not await asyncio.to_thread(sender.ready, self._topics):
            await asyncio.sleep(0.2)
        self._tasks = [asyncio.create_task(lane.run()) for lane in self._lanes]

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Return when all replicas that are in sync have the event."""
        if self._sender is None:
            raise ChoreographyError(f"event {envelope.id} cannot be published: the broker is not started")
        if self._sender.broken:
            self._sender.close()
            self._sender = _Sender(self.settings)
        try:
            async with asyncio.timeout(ACKNOWLEDGED_IN * 2):
                error = await self._sender.send(topic, envelope)
        except (TimeoutError, BufferError, *TROUBLE) as trouble:
            raise ChoreographyError(f"Kafka did not acknowledge event {envelope.id}: {trouble!r}") from trouble
        if error is not None:
            raise ChoreographyError(f"Kafka did not acknowledge event {envelope.id}: {error}")

    async def stop(self) -> None:
        """Stop delivering and disconnect; what is in hand is given to another process."""
        for lane in self._lanes:
            await lane.stop()
        try:
            await asyncio.gather(*self._tasks)
        finally:
            if self._sender is not None:
                self._sender.close()
                await asyncio.to_thread(self._sender.thread.join)


class _Sender:
    """A producer that writes nothing twice, and the thread that hears of its acknowledgements."""

    def __init__(self, settings: dict[str, Any]) -> None:
        sending = {
            **_connection(settings), "acks": "all", "enable.idempotence": True, "linger.ms": 0,
            "message.timeout.ms": int(ACKNOWLEDGED_IN * 1000), "partitioner": "murmur2_random",  # as Java's producers
        }  # fmt: skip
        self.producer = Producer(sending, logger=_quiet)
        self.broken = False
        self._closing = False
        self.thread = threading.Thread(target=self._hear, name="seawall-kafka-producer", daemon=True)
        self.thread.start()

    def _hear(self) -> None:
        while not self._closing:
            self.producer.poll(POLL)
        self.producer.purge()
        self.producer.flush(1.0)

    def close(self) -> None:
        """End soon; what is not acknowledged by then is told as an error."""
        self._closing = True

    def ready(self, topics: Iterable[str]) -> bool:
        """Whether the cluster answers and has these topics; to ask makes them where it makes topics."""
        try:
            self.producer.list_topics(timeout=2.0)
            for topic in topics:
                error = self.producer.list_topics(topic, timeout=2.0).topics[topic].error
                if error is not None:
                    _log.warning("Kafka has no topic %s yet: %s", topic, error)
                    return False
        except TROUBLE as error:
            _log.warning("Kafka cannot be reached: %s", error)
            return False
        return True

    async def send(self, topic: str, envelope: Envelope) -> KafkaError | None:
        """Send, and wait for the acknowledgement; None when it has come."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[KafkaError | None] = loop.create_future()

        def told(error: KafkaError | None, _message: Message) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has gone, and who asked with it
                loop.call_soon_threadsafe(settle, error)

        def settle(error: KafkaError | None) -> None:
            if not answer.done():
                answer.set_result(error)

        headers: list[tuple[str, str | bytes | None]] = [("content-type", "application/cloudevents+json")]
        try:
            self.producer.produce(topic, envelope.text().encode(), envelope.subject.encode(), headers=headers, on_delivery=told)
        except KafkaException as trouble:
            self.broken = self.broken or _fatal(trouble.args[0])
            raise
        error = await answer
        self.broken = self.broken or _fatal(error)
        return error


class _Hand:
    """The event that is being handled."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.leaving = asyncio.Event()
        self.over = threading.Event()
        self.task: asyncio.Task[None] | None = None
        self.handled = False
        self.taken = False  # its partition was given away, which settled it


class _Lane:
    """One group's consumer. All calls to it are made in one thread, in which it also says that partitions go away."""

    def __init__(self, topic: str, group: str, deliver: Deliver, settings: dict[str, Any], retry: float) -> None:
        self.topic, self.group, self._deliver, self._settings, self._retry = topic, group, deliver, settings, retry
        self._hand: _Hand | None = None
        self._closing = False

    async def run(self) -> None:
        """Handle events until stopped."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, f"seawall-kafka-{self.group}")
        while not self._closing:
            try:
                await self._read()
            except TROUBLE as error:  # a new consumer begins where the last commit says
                _log.warning("Kafka is read anew for %s: %s", self.group, error)
                await asyncio.sleep(self._retry)
        self._thread.shutdown(wait=False)

    async def _read(self) -> None:
        """Handle events with one consumer. Raises when it may have left one out."""
        self._consumer = await self._call(lambda: Consumer(self._settings, logger=_quiet))
        try:
            told = {"on_assign": self._assigned, "on_revoke": self._revoked, "on_lost": self._lost}
            await self._call(lambda: self._consumer.subscribe([self.topic], **told))
            while not self._closing:
                message = await self._poll()
                if message is not None and not self._closing:
                    await self._handle(message)
        finally:
            await self._call(self._consumer.close)

    async def stop(self) -> None:
        """Take nothing more, and let go of what is in hand."""
        self._closing = True
        if self._hand is not None and self._hand.task is not None:
            await end([self._hand.task])

    async def _call(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, function)

    async def _poll(self) -> Message | None:
        message = await self._call(lambda: self._consumer.poll(POLL))
        error = None if message is None else message.error()
        if error is None:
            return message
        if _fatal(error):
            raise KafkaException(error)
        _log.warning("Kafka cannot be read: %s", error)
        await asyncio.sleep(self._retry)
        return None

    async def _handle(self, message: Message) -> None:
        """Handle one event until it is handled, and only then commit; meanwhile keep asking Kafka for what concerns the group."""
        self._hand = hand = _Hand(message)
        hand.task = asyncio.create_task(self._try(hand))
        hand.task.add_done_callback(lambda _: hand.over.set())
        try:
            await asyncio.wait([hand.task], timeout=UNASKED)
            if not hand.task.done():
                await self._call(lambda: self._consumer.pause(self._consumer.assignment()))
                while not hand.task.done():
                    early = await self._poll()
                    if early is not None:
                        await self._call(partial(self._put_back, early))
                await self._call(lambda: self._consumer.resume(self._consumer.assignment()))
        finally:
            if not hand.task.done():
                await end([hand.task])
            self._hand = None
        if hand.handled and not hand.taken:
            await self._call(lambda: self._commit(hand))
        elif not hand.taken and not self._closing:
            raise RuntimeError("an event was let go before it was handled")

    async def _try(self, hand: _Hand) -> None:
        """Handle until it is handled, or the partition goes away."""
        while not hand.leaving.is_set():
            try:
                await self._deliver(Envelope.read(hand.message.value() or b""))
            except EventError:
                _log.exception("a message of %s is dropped by %s: it is no event", self.topic, self.group)
            except Exception:
                _log.warning(
                    "an event of %s could not be handled by %s; it is given again", self.topic, self.group, exc_info=True
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._retry):
                        await hand.leaving.wait()
                continue
            hand.handled = True
            return

    def _put_back(self, early: Message) -> None:
        """In the thread: an event came while another one is in hand."""
        place = TopicPartition(early.topic() or "", early.partition() or 0, early.offset() or 0)
        self._consumer.pause([place])
        self._consumer.seek(place)

    def _commit(self, hand: _Hand) -> None:
        """In the thread: say that an event was handled."""
        try:
            self._consumer.commit(message=hand.message, asynchronous=False)
        except TROUBLE as error:  # the next commit says it as well, or it is given again and the inbox drops it
            _log.warning("Kafka could not be told that an event was handled: %s", error)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """In the thread: these partitions are ours. One that was paused when it went away is still paused."""
        consumer.assign(partitions)
        consumer.resume(partitions)

    def _revoked(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        """In the thread: the partitions go to other processes as soon as this returns. What is in hand may end before."""
        hand = self._hand
        if hand is None or hand.task is None:
            return
        self._loop.call_soon_threadsafe(hand.leaving.set)
        if not hand.over.wait(GRACE):
            _log.warning("a handler of %s is cancelled: its partition goes to another process", self.group)
            self._cancel(hand)
        hand.taken = True
        if hand.handled:
            self._commit(hand)

    def _lost(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        """In the thread: the partitions have gone to other processes already."""
        hand = self._hand
        if hand is not None and hand.task is not None:
            hand.taken = True
            self._cancel(hand)

    def _cancel(self, hand: _Hand) -> None:
        assert hand.task is not None
        while not hand.over.is_set():  # a cancellation that meets a time-out of a client is lost in it
            self._loop.call_soon_threadsafe(hand.task.cancel)
            hand.over.wait(1.0)


def _fatal(error: Any) -> bool:
    """Whether a client is of no use after this."""
    return isinstance(error, KafkaError) and error.fatal()


def _connection(settings: dict[str, Any]) -> dict[str, Any]:
    def trouble(error: KafkaError) -> None:
        _log.warning("Kafka: %s", error)

    return {**settings, "reconnect.backoff.max.ms": 1000, "log_level": 2, "error_cb": trouble}


def _topic(name: str) -> str:
    if not TOPIC.fullmatch(name) or name in (".", ".."):
        raise ChoreographyError(f"a topic of Kafka must have 1 to 249 letters, digits, dots, dashes or underscores; got {name!r}")
    return name
