"""Redis or Valkey streams: a stream per topic, a consumer group per group, read by the server's own client.

FastStream's subscriber begins a new group at the end of the stream and reads new entries before abandoned ones, so a service
that comes late would miss events and a restart would invert a key: docs/decisions/0060.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable
from typing import Any, Final

import redis.asyncio as client
from redis.exceptions import RedisError, ResponseError

from seawall.choreography.brokers.port import Deliver, end
from seawall.choreography.envelope import Envelope
from seawall.choreography.errors import ChoreographyError, EventError

FIELD: Final = b"event"
NEXT: Final = """
if redis.call('XPENDING', KEYS[1], ARGV[1])[1] > 0 then
  return redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], '0-0', 'COUNT', 1)[2]
end
local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
return found and found[1][2] or {}
"""
TROUBLE: Final = (RedisError, OSError, TimeoutError)
LOOK: Final = 0.01  # seconds between looks at a stream in which nothing is new
TRIM_EVERY: Final = 1000
_log = logging.getLogger("seawall.choreography")


class RedisBroker:
    """url: "redis://127.0.0.1:6379" (rediss:// for TLS), version 6.2 or later. One message of a group is out at a time, whichever
    process has it, so a group's handlers see each key in order.

    retry: seconds before a message that could not be handled is handled again. ack_wait: seconds without a sign of life after
    which a message is taken from the process that had it. most: entries above which the stream is cut back to what not every
    group has handled, >= 1; groups that never came are not counted.
    """

    def __init__(self, url: str, *, retry: float = 0.2, ack_wait: float = 5.0, most: int = 1_000_000) -> None:
        self.retry, self.ack_wait, self.most = retry, ack_wait, most
        try:
            self._client = client.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=10)
        except ValueError as error:
            raise ChoreographyError(f'broker must read like "redis://127.0.0.1:6379"; {error}') from None
        self._me = uuid.uuid4().hex[:12]
        self._lanes: list[tuple[str, str, Deliver]] = []
        self._groups: list[tuple[str, str]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._published = 0
        self._closing = False

    def subscribe(self, topic: str, group: str, deliver: Deliver) -> None:
        """Give each message of a topic to `deliver`, one at a time."""
        self._lanes.append((topic, group, deliver))

    def expect(self, topic: str, groups: Iterable[str]) -> None:
        """Their groups are made, so that a stream is not cut back behind them."""
        self._groups += [(topic, group) for group in groups]

    async def start(self) -> None:
        """Connect, waiting for a server that is not up yet, and begin to deliver."""
        for topic, group in {*self._groups, *((topic, group) for topic, group, _ in self._lanes)}:
            while not await self._has_group(topic, group):
                await asyncio.sleep(0.2)
        self._tasks = [asyncio.create_task(self._consume(*lane)) for lane in self._lanes]

    async def _has_group(self, topic: str, group: str) -> bool:
        """Make the group, from the first event of the stream on."""
        try:
            await self._client.xgroup_create(topic, group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise ChoreographyError(f"Redis has no group {group} and makes none: {error}") from error
        except TROUBLE as error:
            _log.warning("Redis cannot be reached: %s", error)
            return False
        return True

    async def _consume(self, topic: str, group: str, deliver: Deliver) -> None:
        while not self._closing:
            try:
                found = await self._client.eval(NEXT, 1, topic, group, self._me, int(self.ack_wait * 1000))
                for id_, fields in found:
                    await self._handle(topic, group, deliver, id_, fields)
                if not found:
                    await asyncio.sleep(LOOK)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                _log.warning("Redis has lost the group %s of %s; it begins anew, and inboxes drop what they know", group, topic)
                await self._has_group(topic, group)
            except TROUBLE as error:
                _log.warning("Redis cannot be read: %s", error)
                await asyncio.sleep(self.retry)

    async def _handle(self, topic: str, group: str, deliver: Deliver, id_: bytes, fields: list[bytes] | None) -> None:
        """Handle one entry until it is handled; only then it is acknowledged."""
        body = dict(zip(fields[::2], fields[1::2], strict=True)).get(FIELD) if fields else None
        over = asyncio.Event()
        working = asyncio.create_task(self._extend(topic, group, id_, over))
        try:
            while body is not None:
                if self._closing:
                    return
                try:
                    await deliver(Envelope.read(body))
                    break
                except EventError:
                    _log.exception("a message of %s is dropped by %s: it is no event", topic, group)
                    break
                except Exception:
                    _log.warning("an event of %s could not be handled by %s; it is given again", topic, group, exc_info=True)
                    await asyncio.sleep(self.retry)
        finally:
            over.set()
            working.cancel()
        await self._client.xack(topic, group, id_)

    async def _extend(self, topic: str, group: str, id_: bytes, over: asyncio.Event) -> None:
        """Say that a handler is still at work: to claim what is ours sets its idle time back."""
        while not over.is_set():
            await asyncio.sleep(self.ack_wait / 3)
            try:
                await self._client.xclaim(topic, group, self._me, 0, [id_], justid=True)
            except TROUBLE as error:
                _log.warning("Redis could not be told that a handler is at work: %s", error)

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Return when the server has the entry; how safe it is there is its `appendfsync`."""
        try:
            await self._client.xadd(topic, {FIELD: envelope.text()})
            self._published += 1
            if self._published % TRIM_EVERY == 0:
                await self.trim(topic)
        except TROUBLE as error:
            raise ChoreographyError(f"Redis did not take event {envelope.id}: {error!r}") from error

    async def trim(self, topic: str) -> None:
        """Cut a stream that is too long back to the oldest entry that some group has not handled."""
        if await self._client.xlen(topic) <= self.most:
            return
        needed = []
        for group in await self._client.xinfo_groups(topic):
            waiting: Any = await self._client.xpending(topic, group["name"])
            needed.append(_place(waiting["min"] or group["last-delivered-id"]))
        if needed:
            await self._client.xtrim(topic, minid="-".join(map(str, min(needed))), approximate=True)

    async def stop(self) -> None:
        """Stop delivering and disconnect; what is in hand is given to another process."""
        self._closing = True
        await end(self._tasks)
        await self._client.aclose()


def _place(id_: bytes) -> tuple[int, int]:
    moment, _, number = id_.decode().partition("-")
    return int(moment), int(number or 0)
