"""Keys, URLs and options that somebody else chose."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

import pytest

import seawall as sw
from seawall.shared import keys, stores
from seawall.shared.limiter import SharedRateLimiter
from seawall.shared.memory import MemoryStore
from seawall.shared.quota import Quota
from seawall.shared.redis import RedisStore, told


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a" * 97,
        "a" * 100_000,
        "x{y}z",
        "}{",
        "line\nbreak",
        "\x00",
        "\x1b[31m",
        "#beef",
        "~i1",
        "a:b",
        "\ud800",
        b"\xff\x00",
        (1, "a"),
    ],
)
def test_odd_keys_become_short_printable_text_without_braces(key: Any) -> None:
    """A key is what a stranger sent: it must not reach another slot, another limiter, or a terminal."""
    text = keys.subject(key)
    assert len(text) <= keys.LONGEST
    assert text.isprintable()
    assert not set(text) & set("{}:")


def test_different_keys_stay_different_and_equal_ones_equal() -> None:
    """A tuple that could be mistaken for text would let one tenant spend what is another's."""
    given: list[Any] = [
        "1",
        1,
        1.5,
        b"1",
        ("1",),
        (1,),
        ("a", "b"),
        ("ab",),
        (("a",), "b"),
        ("a", ("b",)),
        "",
        "~",
        "#",
        (),
        "~i1",
        "a:b",
    ]
    given += [UUID(int=1), "x" * 97, "x" * 98, "1,a", ("1,a",)]
    assert len({keys.subject(key) for key in given}) == len(given)
    assert keys.subject(1) == keys.subject(True) == keys.subject(1.0)
    assert keys.subject("tenant-42") == "tenant-42"


@pytest.mark.parametrize("key", [object(), None, [1], {1}, ("a", object()), frozenset({1})])
def test_keys_that_others_could_not_write_the_same_way_are_refused(key: Any) -> None:
    """The order of a set is another one in each process; an object is equal to itself only."""
    with pytest.raises(TypeError, match="key must be text, bytes, a number, a UUID or a tuple"):
        keys.subject(key)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"store": "http://x"}, ValueError, "scheme is one of"),
        ({"store": 5}, TypeError, "store must be a URL"),
        ({"store": "redis+sentinel://127.0.0.1:1"}, ValueError, "name the service"),
        ({"store": "redis+cluster://nowhere"}, ValueError, "host:port"),
        ({"store": "redis://127.0.0.1:1", "budget": 0}, ValueError, "budget"),
        ({"store": "redis://127.0.0.1:1", "initial": "empty"}, ValueError, "initial"),
        ({"observe": 1}, TypeError, "observe"),
        ({"mode": "fast"}, ValueError, "mode"),
        ({"outage": "maybe", "store": "redis://127.0.0.1:1"}, ValueError, "outage"),
        ({"replicas": 0}, ValueError, "replicas"),
        ({"headroom": {"vip": 0.1}}, ValueError, "headroom"),
        ({"headroom": {"default": 1}}, ValueError, "headroom"),
        ({"headroom": [1]}, TypeError, "headroom"),
        ({"mode": "lease", "algorithm": "fixed_window"}, ValueError, "mode"),
        ({"mode": "lease", "headroom": {"sheddable": 0.1}}, ValueError, "mode"),
        ({"spec": {"all": "1/s"}}, ValueError, "at least two levels"),
        ({"spec": sw.Limit(10**9, 1e9, 10**9), "store": MemoryStore(), "algorithm": "token_bucket"}, None, ""),
        ({"spec": sw.Limit(1, 1e9, 10**9), "store": MemoryStore()}, ValueError, "140 years"),
    ],
)
def test_options_that_cannot_be_meant_are_named(options: dict[str, Any], error: Any, words: str) -> None:
    """A limiter that exists is a limiter that works."""
    arguments = {"spec": "10/s", **options}
    if error is None:
        assert sw.RateLimiter(**arguments).try_acquire()
        return
    with pytest.raises(error, match=words):
        sw.RateLimiter(**arguments)


@pytest.mark.parametrize(
    ("every", "tz"), [("fortnight", "UTC"), ("day", "Mars/Olympus"), ("day", "../../etc/passwd"), ("day", "")]
)
def test_calendars_that_do_not_exist_are_named(every: Any, tz: str) -> None:
    """A typing error must not become UTC."""
    with pytest.raises(ValueError, match=r"every must be one of|tz must be"):
        Quota(1, every=every, tz=tz)


def test_passwords_are_told_to_nobody() -> None:
    """Snapshots and errors go into logs."""
    url = "redis://user:secret@127.0.0.1:1/0"
    assert told(url) == "redis://127.0.0.1:1/0"
    limiter = sw.RateLimiter("1/s", store=url, outage="closed", budget=0.5)
    assert "secret" not in repr(limiter.snapshot())
    with pytest.raises(ValueError, match="scheme") as refused:
        stores.open_store("wrong://user:secret@x")
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_said_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a new user of a store sees."""
    monkeypatch.delitem(sys.modules, "seawall.shared.redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(sw.MissingExtra, match=r'pip install "seawall\[redis\]"'):
        stores.open_store("redis://127.0.0.1:1")


def test_a_limiter_in_memory_stays_what_it_was() -> None:
    """Nobody who needs no store pays for one."""
    assert type(sw.RateLimiter("1/s")) is sw.RateLimiter
    assert type(sw.RateLimiter("1/s", store="memory:")) is sw.RateLimiter
    assert type(sw.RateLimiter("1/s", observe=True)) is SharedRateLimiter

    class Own(sw.RateLimiter):
        pass

    assert type(Own("1/s")) is Own
    with pytest.raises(TypeError, match="not with classes derived"):
        Own("1/s", store="redis://127.0.0.1:1")


def test_one_url_is_one_connection_and_one_circuit() -> None:
    """A hundred limiters must not be a hundred connections."""
    one = sw.RateLimiter("1/s", store="redis://127.0.0.1:1", name="a")
    two = sw.RateLimiter("1/s", store="redis://127.0.0.1:1", name="b")
    assert isinstance(one, SharedRateLimiter)
    assert isinstance(two, SharedRateLimiter)
    assert one._gate is two._gate
    assert isinstance(one._gate.store, RedisStore)


def test_memory_is_bounded_and_debt_is_not_forgotten() -> None:
    """Whoever cycles through other keys must not be free again."""
    limiter = sw.RateLimiter("2/h", store=MemoryStore(max_keys=10), name="m")
    assert limiter.try_acquire("victim", 2)
    passed = sum(limiter.try_acquire(f"noise {number}") for number in range(200))
    assert passed <= 9 + 2  # one each for the keys with a place, and what they share
    assert not limiter.try_acquire("victim")
