"""Asking instances themselves whether they are there: the judge when registry and experience disagree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from seawall.discovery.instance import Instance
from seawall.discovery.settings import Probe

AT_ONCE: Final = 32


async def connects(instance: Instance) -> bool:
    """Whether a TCP connection to it opens; nothing is sent."""
    try:
        _, writer = await asyncio.open_connection(instance.host, instance.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def silent_ones(suspects: Sequence[Instance], probe: Probe | None, limit: float) -> list[str]:
    """The ids of those that do NOT answer `probe` (default: a TCP connection) within `limit` seconds; 32 are asked at once."""
    ask, seats = probe or connects, asyncio.Semaphore(AT_ONCE)

    async def is_silent(one: Instance) -> bool:
        async with seats:
            try:
                async with asyncio.timeout(limit):
                    return not await ask(one)
            except Exception:  # a probe that fails is an answer too: no
                return True

    told = await asyncio.gather(*map(is_silent, suspects))
    return [one.id for one, silent in zip(suspects, told, strict=True) if silent]
