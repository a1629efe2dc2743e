"""Real servers for the tests of shared limits, started once per worker on free ports and ended by their own pid."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.shared.memory import MemoryStore
from seawall.shared.redis import RedisStore
from seawall.testing.servers import RedisServer

BUDGET = 5.0  # generous: a slow machine must not look like an outage
_numbers = itertools.count()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """A Valkey server that tests share; nobody stops it."""
    with RedisServer("valkey") as server:
        yield server


@pytest.fixture(scope="session")
def oldest() -> Iterator[RedisServer]:
    """The oldest Redis that is supported."""
    with RedisServer("redis") as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may stop, pause and start again."""
    with RedisServer("valkey") as server:
        yield server


@pytest.fixture
def unique() -> str:
    """A limiter's name that no other test has."""
    return f"limiter {next(_numbers)}"


@pytest.fixture(params=["memory", "valkey", "oldest"])
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every kind of store: what holds for one must hold for all."""
    if request.param == "memory":
        yield MemoryStore()
        return
    server: RedisServer = request.getfixturevalue(request.param)
    made = RedisStore(server.url, budget=BUDGET)
    yield made
    made.close()


@pytest.fixture
def shared(store: Any, unique: str) -> Callable[..., sw.RateLimiter]:
    """Makes limiters that share one name on the store."""

    def make(spec: Any = "10/min", **options: Any) -> sw.RateLimiter:
        return sw.RateLimiter(spec, store=store, **{"name": unique, "budget": BUDGET, **options})

    return make
