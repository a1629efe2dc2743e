"""A rolling restart of three instances under traffic, by a client that retries nothing: the promise of a drain, whole."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest


async def roll(start: Any, client: Any, *, kind: str, rate: float, restarts: int) -> tuple[int, list[str], int]:
    """Restart each of three instances so many times, one after the other; requests sent, failures, instances ended."""
    ended = 0
    async with contextlib.AsyncExitStack() as instances:
        fleet = [await instances.enter_async_context(start(kind, propagation=0.6)) for _ in range(3)]
        async with client([server.port for server in fleet], rate=rate, lag=0.1) as calls:
            for server in fleet:
                calls.follow(server)
            for _ in range(restarts):
                for place, old in enumerate(list(fleet)):
                    await asyncio.sleep(0.3)
                    old.terminate()
                    await old.ended()
                    ended += 1
                    fleet[place] = new = await instances.enter_async_context(start(kind, propagation=0.6))
                    calls.follow(new)
                    calls.ports.append(new.port)
            await asyncio.sleep(0.3)
        return sum(calls.answers.values()), calls.failures, ended


def test_no_request_fails_during_a_rolling_restart_of_three_instances(start: Any, client: Any) -> None:
    """H1: a deploy must be invisible. A third of the full rate and one round here; the soak runs 200/s, ten rounds."""
    sent, failures, ended = asyncio.run(roll(start, client, kind="uvicorn", rate=70, restarts=1))
    assert failures == []
    assert ended == 3
    assert sent > 300


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "granian", "gunicorn-uvicorn"])
def test_no_request_fails_in_ten_rolling_restarts_at_200_per_second(
    kind: str, start: Any, client: Any, soak_seconds: float
) -> None:
    """H1 at full size: one lost request in ten deploys is still a lost request."""
    rounds = 10 if soak_seconds >= 60 else 1
    begun = time.monotonic()
    sent, failures, ended = asyncio.run(roll(start, client, kind=kind, rate=200, restarts=rounds))
    print(f"{kind}: {sent} requests, {ended} instances restarted in {time.monotonic() - begun:.0f} s, {len(failures)} failed")
    assert failures == []
    assert ended == 3 * rounds
