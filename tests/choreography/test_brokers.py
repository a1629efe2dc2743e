"""One suite for every broker: what the outbox and the inbox rely on. What only some of them promise is said by name."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seawall.choreography import ChoreographyError, Envelope
from seawall.choreography.brokers import port
from seawall.choreography.brokers.port import Broker, open_broker
from seawall.choreography.envelope import wrap
from seawall.core.errors import MissingExtra
from seawall.demo.choreography import OrderCreated
from seawall.testing.servers import RedisServer

BROKERS = ["nats", "redis", "valkey", "rabbitmq", "kafka"]
ORDERED = {"nats", "redis", "valkey", "rabbitmq"}  # one message of a group is out at a time, whichever process has it


class Server:
    """A broker that can be killed and started again on what it kept."""

    def __init__(self, kind: str, url: str, real: Any) -> None:
        self.kind, self.url, self._real = kind, url, real

    def kill(self) -> None:
        self._real.kill()

    def start(self) -> None:
        self._real.start()


@pytest.fixture(params=BROKERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A real server of each kind, which keeps what it has acknowledged."""
    kind = request.param
    if kind in ("redis", "valkey"):
        pytest.importorskip("redis", reason="the broker is an extra")
        with RedisServer(kind, "--appendonly", "yes", "--appendfsync", "always") as real:
            yield Server(kind, real.url, real)
    else:
        real = request.getfixturevalue(kind)
        yield Server(kind, real.url, real)


def envelope(key: str, total: int) -> Envelope:
    """An event of one key."""
    return wrap(OrderCreated(key, total), source="test", correlation=key)


class Group:
    """Handlers that note what they were given; `fails` times they fail first."""

    def __init__(self, fails: int = 0) -> None:
        self.got: list[tuple[str, int]] = []
        self.tries = 0
        self._fails = fails

    async def deliver(self, given: Envelope) -> None:
        self.tries += 1
        if self.tries <= self._fails:
            raise OSError("not yet")
        self.got.append((given.subject, given.data["total"]))


async def until(true: Any, seconds: float = 150.0) -> None:
    """Wait for what comes, within generous bounds."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def patiently(broker: Broker, topic: str, given: Envelope) -> None:
    """Publish as a relay does: until the broker has it."""
    async with asyncio.timeout(150):
        while True:
            try:
                return await broker.publish(topic, given)
            except ChoreographyError:
                await asyncio.sleep(0.1)


def test_every_group_gets_every_event_in_order_also_those_from_before_it_came(server: Server) -> None:
    """A service that is deployed for the first time must find what was published before it; each group has a copy of its own."""

    async def story() -> None:
        first, second = Group(), Group()
        one = open_broker(server.url)
        one.subscribe("orders", "orders-first", first.deliver)
        await one.start()
        for total in range(20):
            await patiently(one, "orders", envelope("a" if total % 2 else "b", total))
        await until(lambda: len(first.got) == 20)
        two = open_broker(server.url)
        two.subscribe("orders", "orders-second", second.deliver)
        await two.start()
        if server.kind != "rabbitmq":  # a queue holds what comes after it was made; the outbox can publish again
            await until(lambda: len(second.got) == 20)
        await patiently(two, "orders", envelope("a", 99))
        await until(lambda: ("a", 99) in first.got and ("a", 99) in second.got)
        for group in (first, second):
            for key in "ab":
                totals = [total for of, total in group.got if of == key or server.kind in ORDERED]
                assert totals == sorted(totals)
        await one.stop()
        await two.stop()

    asyncio.run(story())


def test_what_could_not_be_handled_is_given_again_before_what_came_later(server: Server) -> None:
    """A handler that fails three times delays its group, it does not invert it and loses nothing."""

    async def story() -> None:
        group = Group(fails=3)
        broker = open_broker(server.url)
        broker.subscribe("orders", "orders-a", group.deliver)
        await broker.start()
        for total in range(3):
            await patiently(broker, "orders", envelope("a", total))
        await until(lambda: len(group.got) == 3)
        assert [total for _, total in group.got] == [0, 1, 2]
        assert group.tries == 6
        await broker.stop()

    asyncio.run(story())


def test_two_processes_of_a_group_share_its_events(server: Server) -> None:
    """Two instances of a service: each event is for one of them."""

    async def story() -> None:
        groups = [Group(), Group()]
        brokers = [open_broker(server.url) for _ in groups]
        for broker, group in zip(brokers, groups, strict=True):
            broker.subscribe("orders", "orders-a", group.deliver)
            await broker.start()
        for total in range(30):
            await patiently(brokers[0], "orders", envelope("a", total))
        await until(lambda: len({total for group in groups for _, total in group.got}) >= 30)
        handled = [total for group in groups for _, total in group.got]
        if server.kind == "kafka":  # its mock cluster takes no commit while a group changes, so one may be given again
            handled = list(set(handled))
        assert sorted(handled) == list(range(30))
        for broker in brokers:
            await broker.stop()

    asyncio.run(story())


CHILD = """
import asyncio, sys
from seawall.choreography.brokers.port import open_broker
async def hold(given):
    print("holding", given.data["total"], flush=True)
    await asyncio.sleep(3600)
async def main():
    broker = open_broker(sys.argv[1])
    broker.subscribe("orders", "orders-a", hold)
    await broker.start()
    await asyncio.sleep(3600)
asyncio.run(main())
"""


def test_what_a_killed_process_had_in_hand_goes_to_another_one(server: Server) -> None:
    """Acknowledged is what was handled, not what was fetched."""

    async def story() -> None:
        broker = open_broker(server.url)
        await broker.start()
        command = [sys.executable, "-c", CHILD, server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            assert child.stdout is not None
            await asyncio.sleep(0.5)
            for total in range(3):
                await patiently(broker, "orders", envelope("a", total))
            if server.kind == "rabbitmq":  # the queue may have come after the first event
                while not await asyncio.to_thread(readable, child):
                    await patiently(broker, "orders", envelope("a", 0))
            assert (await asyncio.to_thread(child.stdout.readline)).startswith("holding")
            child.kill()
        group = Group()
        other = open_broker(server.url)
        other.subscribe("orders", "orders-a", group.deliver)
        await other.start()
        await until(lambda: {0, 1, 2} <= {total for _, total in group.got} or (server.kind == "rabbitmq" and len(group.got) > 0))
        if server.kind in ORDERED:
            assert [total for _, total in group.got] == sorted(total for _, total in group.got)
        await other.stop()
        await broker.stop()

    asyncio.run(story())


def readable(child: Any) -> bool:
    """Whether a child has said something within a second."""
    import select

    return bool(select.select([child.stdout], [], [], 1.0)[0])


def test_a_broker_that_is_killed_has_kept_what_it_acknowledged(server: Server) -> None:
    """It dies with events in it and comes back on its files; who waits for them gets them, and publishing goes on."""
    if server.kind == "kafka":
        pytest.skip("Kafka is librdkafka's mock cluster here: it keeps nothing on disk, so it cannot come back with what it had")

    async def story() -> None:
        group = Group()
        making = open_broker(server.url)
        making.subscribe("orders", "orders-a", Group().deliver)
        await making.start()
        await making.stop()
        broker = open_broker(server.url)
        await broker.start()
        for total in range(20):
            await patiently(broker, "orders", envelope("a", total))
        await asyncio.to_thread(server.kill)
        with pytest.raises(ChoreographyError):
            await broker.publish("orders", envelope("a", 1000))
        await asyncio.to_thread(server.start)
        for total in range(20, 25):
            await patiently(broker, "orders", envelope("a", total))
        reader = open_broker(server.url)
        reader.subscribe("orders", "orders-a", group.deliver)
        await reader.start()
        await until(lambda: set(range(25)) <= {total for _, total in group.got})
        await reader.stop()
        await broker.stop()

    asyncio.run(story())


def test_what_is_no_event_is_dropped_and_the_next_one_handled(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's message in our topic must not stop us for ever."""

    class Strange:
        """Says what no event says."""

        id, type, subject = "x", "OrderCreated", "a"

        @staticmethod
        def text() -> str:
            return '{"what": "is this"}'

    async def story() -> None:
        group = Group()
        broker = open_broker(server.url)
        broker.subscribe("orders", "orders-a", group.deliver)
        await broker.start()
        await broker.publish("orders", Strange())  # type: ignore[arg-type]
        await patiently(broker, "orders", envelope("a", 1))
        await until(lambda: group.got == [("a", 1)])
        await broker.stop()

    asyncio.run(story())
    assert "it is no event" in caplog.text


def test_a_stream_that_grows_is_cut_back_to_what_some_group_still_needs() -> None:
    """A server must not fill up with what everybody has handled, and nothing that is needed may go."""
    from seawall.choreography.brokers.redis import RedisBroker

    async def story() -> None:
        with RedisServer("valkey") as real:
            broker, group = RedisBroker(real.url, most=100), Group()
            broker.subscribe("orders", "orders-fast", group.deliver)
            await broker.start()
            await broker._has_group("orders", "orders-slow")
            for total in range(400):
                await broker.publish("orders", envelope("a", total))
            await until(lambda: len(group.got) == 400)
            await broker.trim("orders")
            assert await broker._client.xlen("orders") == 400, "one group has handled nothing yet"
            await broker._client.xgroup_destroy("orders", "orders-slow")
            await broker.trim("orders")
            assert await broker._client.xlen("orders") < 200
            await broker.stop()

    asyncio.run(story())


def test_a_broker_that_cannot_be_made_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown scheme, and one whose client is not installed."""
    with pytest.raises(ChoreographyError, match="broker must be one of memory:, nats:"):
        open_broker("pigeon://x")

    absent: list[str] = []

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {absent[-1]!r}", name=absent[-1])

    monkeypatch.setattr(port, "import_module", missing)
    for client, scheme, extra in (("redis", "redis", "redis-streams"), ("confluent_kafka", "kafka", "kafka")):
        absent.append(client)
        with pytest.raises(MissingExtra, match=rf"seawall\[{extra}\]"):
            open_broker(f"{scheme}://127.0.0.1")
