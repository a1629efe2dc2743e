"""What only Kafka does: partitions that move while an event is in hand, against librdkafka's mock cluster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="the broker is an extra")

from confluent_kafka import Consumer, Producer, TopicPartition

from seawall.choreography import ChoreographyError, Envelope
from seawall.choreography.brokers import kafka as room
from seawall.choreography.brokers.kafka import KafkaBroker, _Sender
from seawall.choreography.brokers.kafka_url import read
from seawall.choreography.envelope import wrap
from seawall.demo.choreography import OrderCreated

KEYS = [f"key-{number}" for number in range(24)]  # over all four partitions of the mock's topics


def envelope(key: str, total: int) -> Envelope:
    """An event of one key."""
    return wrap(OrderCreated(key, total), source="test", correlation=key)


async def until(true: Any, seconds: float = 120.0) -> None:
    """Wait for what comes, within generous bounds."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


class Held:
    """A handler that keeps its first event in hand: busy until `free`, or failing until then."""

    def __init__(self, *, failing: bool) -> None:
        self.failing = failing
        self.free = asyncio.Event()
        self.tried: list[tuple[str, int]] = []
        self.got: list[tuple[str, int]] = []

    async def deliver(self, given: Envelope) -> None:
        event = (given.subject, given.data["total"])
        self.tried.append(event)
        if not self.free.is_set():
            if self.failing:
                raise OSError("not yet")
            await self.free.wait()
        self.got.append(event)


def in_order(events: list[tuple[str, int]]) -> bool:
    """Whether no key went back, repeats aside."""
    return all((mine := [total for of, total in events if of == key]) == sorted(mine) for key in {of for of, _ in events})


def test_a_process_that_fails_for_long_gives_its_keys_to_one_that_comes(kafka: Any) -> None:
    """An event that cannot be handled here for longer than a session must not keep the group standing when another comes."""

    async def story() -> None:
        ill, well = Held(failing=True), Held(failing=False)
        well.free.set()
        one, two = KafkaBroker(kafka.url), KafkaBroker(kafka.url)
        one.subscribe("orders", "orders-a", ill.deliver)
        two.subscribe("orders", "orders-a", well.deliver)
        await one.start()
        for key in KEYS:
            await one.publish("orders", envelope(key, 0))
        await until(lambda: len(ill.tried) >= 8)  # Kafka is asked beside the handler by now
        await two.start()
        await until(lambda: well.got)
        for key in KEYS:
            await one.publish("orders", envelope(key, 1))
        ill.free.set()
        await until(lambda: {(key, total) for key in KEYS for total in (0, 1)} <= {*ill.got, *well.got})
        assert in_order(ill.got)
        assert in_order(well.got)
        assert ill.got, "keys are shared, not taken over"
        await one.stop()
        await two.stop()

    asyncio.run(story())


def test_a_handler_at_work_ends_before_its_keys_move(kafka: Any) -> None:
    """A process that comes meanwhile must wait for the event in hand, and not be given it too."""

    async def story() -> None:
        slow, other = Held(failing=False), Held(failing=False)
        other.free.set()
        one, two = KafkaBroker(kafka.url), KafkaBroker(kafka.url)
        one.subscribe("orders", "orders-a", slow.deliver)
        two.subscribe("orders", "orders-a", other.deliver)
        await one.start()
        for key in KEYS:
            await one.publish("orders", envelope(key, 0))
        await until(lambda: slow.tried)
        await asyncio.sleep(1.5)
        await two.start()
        await asyncio.sleep(2.5)
        assert not other.got
        slow.free.set()
        await until(lambda: {(key, 0) for key in KEYS} <= {*slow.got, *other.got})
        assert slow.got[0] == slow.tried[0]  # repeats there may be: the mock takes no commit while the group changes, Kafka does
        await one.stop()
        await two.stop()

    asyncio.run(story())


def test_a_handler_longer_than_a_session_keeps_its_event(kafka: Any) -> None:
    """Who handles one event for long is alive, and the events after it come in order."""

    async def story() -> None:
        slow = Held(failing=False)
        broker = KafkaBroker(kafka.url)
        broker.subscribe("orders", "orders-a", slow.deliver)
        await broker.start()
        for total in range(5):
            await broker.publish("orders", envelope("a", total))
        await until(lambda: slow.tried)
        await asyncio.sleep(9)
        slow.free.set()
        await until(lambda: len(slow.got) >= 5)
        await asyncio.sleep(0.3)
        assert slow.got == slow.tried == [("a", total) for total in range(5)]
        await broker.stop()

    asyncio.run(story())


def test_stopping_lets_go_of_an_event_that_is_not_handled(kafka: Any) -> None:
    """A service that ends in the middle of an event must not have it counted as handled."""

    async def story() -> None:
        held, next_ = Held(failing=False), Held(failing=False)
        next_.free.set()
        one, two = KafkaBroker(kafka.url), KafkaBroker(kafka.url)
        one.subscribe("orders", "orders-a", held.deliver)
        two.subscribe("orders", "orders-a", next_.deliver)
        await one.start()
        await one.publish("orders", envelope("a", 1))
        await until(lambda: held.tried)
        await one.stop()
        await two.start()
        await until(lambda: next_.got == [("a", 1)])
        await two.stop()

    asyncio.run(story())


def test_a_cluster_that_has_gone_is_said(kafka: Any) -> None:
    """What was not acknowledged must not look as if it were, and stopping must end all the same."""

    async def story() -> None:
        group = Held(failing=False)
        broker = KafkaBroker(kafka.url)
        broker.subscribe("orders", "orders-a", group.deliver)
        with pytest.raises(ChoreographyError, match="not started"):
            await broker.publish("orders", envelope("a", 0))
        await broker.start()
        await broker.publish("orders", envelope("a", 0))
        kafka.kill()
        with pytest.raises(ChoreographyError, match="did not acknowledge"):
            await broker.publish("orders", envelope("a", 1))
        async with asyncio.timeout(60):
            await broker.stop()

    asyncio.run(story())


def test_start_waits_for_a_cluster_that_is_not_up_yet(kafka: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Services and brokers are started in any order; here the first server of the list answers late, the others never."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = kafka.address.partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    async def story() -> None:
        door = await asyncio.start_server(forward, "127.0.0.1", 0)
        port = door.sockets[0].getsockname()[1]
        door.close()
        await door.wait_closed()
        broker = KafkaBroker(f"kafka://127.0.0.1:{port},127.0.0.1:1")
        starting = asyncio.create_task(broker.start())
        await until(lambda: "Kafka cannot be reached" in caplog.text)
        assert not starting.done()
        door = await asyncio.start_server(forward, "127.0.0.1", port)
        await asyncio.wait_for(starting, 60)
        await broker.publish("orders", envelope("a", 1))
        await broker.stop()
        door.close()

    asyncio.run(story())


def test_an_event_is_keyed_by_its_saga(kafka: Any) -> None:
    """The key is what keeps the order, also for readers that are not ours."""

    async def story() -> None:
        broker = KafkaBroker(kafka.url)
        await broker.start()
        for total in range(3):
            await broker.publish("orders", envelope("a", total))
        await broker.stop()

    asyncio.run(story())
    reader = Consumer({"bootstrap.servers": kafka.address, "group.id": "strangers"})
    reader.assign([TopicPartition("orders", number, 0) for number in range(4)])
    found: list[Any] = []
    while len(found) < 3:
        message = reader.poll(10)
        assert message is not None
        assert message.error() is None
        found.append(message)
    assert {(message.key(), message.partition()) for message in found} == {(b"a", found[0].partition())}
    assert [Envelope.read(message.value()).data["total"] for message in found] == [0, 1, 2]
    assert found[0].headers() == [("content-type", b"application/cloudevents+json")]
    reader.close()


def test_a_producer_of_no_more_use_is_replaced(kafka: Any) -> None:
    """After a fatal error librdkafka's producer refuses everything; a service must not have to be started again for that."""

    async def story() -> None:
        broker = KafkaBroker(kafka.url)
        await broker.start()
        first = broker._sender
        assert isinstance(first, _Sender)
        first.broken = True
        await broker.publish("orders", envelope("a", 1))
        assert broker._sender is not first
        await broker.stop()

    asyncio.run(story())


@pytest.mark.parametrize("url", [
    "kafka:127.0.0.1:9092", "kafka://", "kafka://127.0.0.1", "kafka://127.0.0.1:0", "kafka://127.0.0.1:99999", "kafka://a:1,,b:2",
    "kafka://a:1, b:2", "kafka://a:1/topic", "kafka://a:x", "kafka://user@a:1", "kafka://user:secret@a", "http://a:1",
])  # fmt: skip
def test_a_url_that_says_no_servers_is_refused(url: str) -> None:
    """A typing error is told when the choreography is opened, not when the first event is sent, and never with a password."""
    with pytest.raises(ChoreographyError, match="broker must read like") as raised:
        KafkaBroker(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("url", "wanted"), [
    ("kafkas://a:1", {"security.protocol": "SSL"}),
    ("kafkas://a:1,b:2?ca=/ca.pem&cert=/c.pem&key=/k.pem", {
        "bootstrap.servers": "a:1,b:2", "security.protocol": "SSL", "ssl.ca.location": "/ca.pem",
        "ssl.certificate.location": "/c.pem", "ssl.key.location": "/k.pem",
    }),
    ("kafkas://me:s%40cret@a:1", {
        "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "me", "sasl.password": "s@cret",
    }),
    ("kafka://me:secret@a:1", {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512"}),
    ("kafka://me:secret@a:1?mechanism=SCRAM-SHA-256", {"sasl.mechanism": "SCRAM-SHA-256"}),
])  # fmt: skip
def test_tls_and_a_login_are_in_the_url(url: str, wanted: dict[str, str]) -> None:
    """What a cluster in production asks for; the client takes these settings, though no such cluster runs here."""
    found = read(url)
    assert wanted.items() <= found.items()
    known = {name: value for name, value in found.items() if not name.startswith("ssl.")}  # files that are not there
    Producer(known).purge()


@pytest.mark.parametrize("url", [
    "kafka://a:1?ca=/ca.pem", "kafka://a:1?mechanism=PLAIN", "kafkas://a:1?cafile=x", "kafkas://a:1?ca=",
    "kafka://me:secret@a:1?mechanism=KERBEROS", "kafka://:secret@a:1", "kafkas://me:secret@a:1?password=secret",
])  # fmt: skip
def test_options_that_do_nothing_are_refused(url: str) -> None:
    """A certificate that is silently not used is a door that is silently open."""
    with pytest.raises(ChoreographyError) as raised:
        KafkaBroker(url)
    assert "secret" not in str(raised.value)


def test_what_cannot_be_is_refused() -> None:
    """Names that Kafka has no topics of, and seconds that are none; servers are read as they are written."""
    assert read("kafka://a:1,[::1]:2/") == {"bootstrap.servers": "a:1,[::1]:2"}
    broker = KafkaBroker("kafka://127.0.0.1:9092")
    for name in ("", "a b", "..", "x" * 250, "ä"):
        with pytest.raises(ChoreographyError, match="a topic of Kafka must have"):
            broker.subscribe(name, "g", Held(failing=False).deliver)
    with pytest.raises(ChoreographyError, match="ack_wait must be seconds > 0"):
        KafkaBroker("kafka://127.0.0.1:9092", ack_wait=0)
    with pytest.raises(ChoreographyError, match="retry must be seconds > 0"):
        KafkaBroker("kafka://127.0.0.1:9092", retry=-1)


def test_an_event_that_is_let_go_is_given_again(kafka: Any) -> None:
    """A handler that ends itself by a cancellation must not make the events after it count for it."""

    async def story() -> None:
        got: list[int] = []
        tries = 0

        async def deliver(given: Envelope) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise asyncio.CancelledError
            got.append(given.data["total"])

        broker = KafkaBroker(kafka.url)
        broker.subscribe("orders", "orders-a", deliver)
        await broker.start()
        for total in range(3):
            await broker.publish("orders", envelope("a", total))
        await until(lambda: len(got) >= 3)
        assert got == [0, 1, 2]
        await broker.stop()

    asyncio.run(story())


def test_an_event_that_comes_beside_one_in_hand_is_put_back(kafka: Any) -> None:
    """Partitions may come while an event is in hand; what is read of them then must neither be lost nor be handled early."""

    async def story() -> None:
        slow = Held(failing=False)
        broker = KafkaBroker(kafka.url)
        broker.subscribe("orders", "orders-a", slow.deliver)
        await broker.start()
        for total in range(5):
            await broker.publish("orders", envelope("a", total))
        await until(lambda: slow.tried)
        lane = broker._lanes[0]
        await asyncio.sleep(1.5)
        await lane._call(lambda: lane._consumer.resume(lane._consumer.assignment()))  # as if they had come now
        await asyncio.sleep(1.5)
        assert slow.tried == [("a", 0)]
        slow.free.set()
        await until(lambda: len(slow.got) >= 5)
        assert slow.got == [("a", total) for total in range(5)]
        await broker.stop()

    asyncio.run(story())


class Endless:
    """A handler that never ends by itself."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0

    async def deliver(self, given: Envelope) -> None:
        self.begun += 1
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def test_a_handler_that_does_not_end_is_cancelled_when_its_keys_move(kafka: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One handler that hangs must not keep the whole group from changing."""
    monkeypatch.setattr(room, "GRACE", 0.5)

    async def story() -> None:
        endless, well = Endless(), Held(failing=False)
        well.free.set()
        one, two = KafkaBroker(kafka.url), KafkaBroker(kafka.url)
        one.subscribe("orders", "orders-a", endless.deliver)
        two.subscribe("orders", "orders-a", well.deliver)
        await one.start()
        for key in KEYS:
            await one.publish("orders", envelope(key, 0))
        await until(lambda: endless.begun)
        await two.start()
        await until(lambda: well.got)
        assert endless.cancelled
        await one.stop()
        await until(lambda: len(well.got) >= len(KEYS))
        await two.stop()

    asyncio.run(story())


def test_a_handler_whose_keys_have_gone_already_is_cancelled(kafka: Any) -> None:
    """Another process may be at work on the event by then."""

    async def story() -> None:
        endless = Endless()
        broker = KafkaBroker(kafka.url)
        broker.subscribe("orders", "orders-a", endless.deliver)
        await broker.start()
        await broker.publish("orders", envelope("a", 0))
        await until(lambda: endless.begun)
        lane = broker._lanes[0]
        await lane._call(lambda: lane._lost(lane._consumer, []))
        assert endless.cancelled == 1
        await broker.stop()

    asyncio.run(story())
