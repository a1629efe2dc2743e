"""What a compiled function looks like from outside: its signature, tracebacks, pickles, and the ways to do without it."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest

import seawall as sw
from seawall.core import runtime
from seawall.pipeline import compiler, signatures
from seawall.testing import VirtualClock, capture_events, off
from seawall.testing.modes import virtual_time

pytestmark = pytest.mark.skipif(not compiler.enabled(), reason="SEAWALL_COMPILE=0: nothing is compiled")

module_level = sw.Pipeline(sw.CircuitBreaker(name="module"), name="module")


@module_level
def at_module_level(number: int) -> int:
    """A function that can be pickled by its name."""
    return number + 1


def breaker() -> sw.Pipeline:
    return sw.Pipeline(sw.CircuitBreaker(window_calls=10), sw.Bulkhead(2), name="p")


def test_the_signature_is_the_functions_own() -> None:
    """Frameworks and editors read it."""

    @breaker()
    def function(a: int, b: Any = None, /, c: int = 3, *rest: int, d: int, e: list[int] = [5], **others: int) -> tuple[Any, ...]:  # noqa: B006
        """Its docstring."""
        return a, b, c, rest, d, e, others

    assert str(inspect.signature(function)) == str(inspect.signature(function.__wrapped__))
    assert inspect.signature(function, follow_wrapped=False).parameters.keys() == inspect.signature(function).parameters.keys()
    assert (function.__name__, function.__doc__) == ("function", "Its docstring.")
    assert function(1, d=4) == (1, None, 3, (), 4, [5], {})
    assert function(1, 2, 3, 4, 5, d=6, e=7, f=8) == (1, 2, 3, (4, 5), 6, 7, {"f": 8})
    assert function(1, d=4)[5] is function(1, d=4)[5], "defaults are bound as the objects they are"


def test_a_call_of_the_wrong_shape_is_the_callers_mistake() -> None:
    """It fails as it would without a guard, names the function, and is no failure of the callee."""
    pipeline = breaker()

    @pipeline
    def charge(order: int) -> int:
        return order

    with pytest.raises(TypeError, match=r"charge\(\) missing 1 required positional argument: 'order'"):
        charge()  # type: ignore[call-arg]
    assert pipeline.policy(sw.CircuitBreaker).snapshot().calls == 0


def test_names_that_would_collide_get_the_generic_shape() -> None:
    """A user's parameter may be called anything."""

    @breaker()
    def odd(_sw_fn: int, guarded: int) -> int:
        return _sw_fn + guarded

    assert odd(1, guarded=2) == 3
    assert breaker()(lambda guarded: guarded)(4) == 4
    assert signatures.shape_of(len) is signatures.GENERIC
    assert signatures.shape_of(lambda *, only: only).call == "only=only"


def test_kinds_of_functions_stay_what_they_are() -> None:
    """async stays async, methods stay methods, also static and class methods."""

    class Client:
        @breaker()
        def plain(self, n: int) -> tuple[Any, int]:
            return self, n

        @breaker()
        @classmethod
        def of_class(cls, n: int) -> tuple[Any, int]:
            return cls, n

        @breaker()
        @staticmethod
        def static(n: int) -> int:
            return n

        @breaker()
        async def later(self, n: int) -> int:
            return n

    client = Client()
    assert client.plain(1) == (client, 1)
    assert Client.of_class(2) == (Client, 2)
    assert client.static(3) == 3
    assert inspect.iscoroutinefunction(client.later)
    assert asyncio.run(client.later(4)) == 4


def test_a_module_level_function_can_be_pickled() -> None:
    """Process pools send functions by name."""
    again = pickle.loads(pickle.dumps(at_module_level))  # our own bytes
    assert again is at_module_level
    assert again(1) == 2


def test_a_traceback_shows_the_compiled_line_and_the_users_error_alone() -> None:
    """One frame of ours, with its text, and no error chained to the user's."""

    @breaker()
    def broken() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down") as caught:
        broken()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in frames[1:]] == ["broken", "broken"]
    assert frames[1].line == "_sw_r = _sw_fn()"
    assert frames[1].filename.startswith("<seawall guard ")
    assert caught.value.__context__ is None


def test_equal_shapes_share_one_source() -> None:
    """Compiling costs a third of a millisecond, so it is done once for each shape."""
    made = [breaker()(lambda: 1) for _ in range(5)]
    assert len({function.__code__.co_filename for function in made}) == 1


def test_results_that_would_run_later_are_refused() -> None:
    """A plain function that hands back a coroutine or generator would be guarded in name only."""

    async def later() -> int:
        return 1

    @breaker()
    def hands_on(what: Any) -> Any:
        return what()

    assert hands_on(lambda: object) is object
    with pytest.raises(sw.WrongTwin):
        hands_on(later)
    with pytest.raises(sw.Misplaced):
        hands_on(lambda: (n for n in ()))


def test_an_async_call_of_a_plain_function_is_refused() -> None:
    """`acall` awaits what it gets, so there has to be something to await."""

    async def main() -> None:
        with pytest.raises(sw.WrongTwin, match="cannot be awaited"):
            await breaker().acall(lambda: 1)  # type: ignore[arg-type,return-value]

    asyncio.run(main())


def test_the_gate_leads_away_and_back() -> None:
    """Tests switch policies off, put a clock in place, and listen: each costs a branch only."""
    pipeline = sw.Pipeline(sw.CircuitBreaker(window_calls=5), name="gate")
    circuit = pipeline.policy(sw.CircuitBreaker)

    @pipeline
    def call() -> int:
        return 1

    call()
    with off():
        circuit.isolate()
        assert call() == 1
        circuit.reset()
    with virtual_time():
        call()
        assert circuit.snapshot().calls == 1
    call()
    with capture_events("call.") as events:
        assert call() == 1
        circuit.isolate()
        with pytest.raises(sw.CircuitOpen):
            call()
        circuit.reset()
    assert [(event.kind, event.data["outcome"]) for event in events] == [("call.ended", "success"), ("call.ended", "rejected")]
    assert all(event.took is not None and event.took >= 0 for event in events)
    call()
    assert len(events) == 2


def test_a_sink_that_fails_breaks_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever listens must not be able to hurt whoever calls."""
    pipeline = breaker()

    def bad(event: sw.Event) -> None:
        raise RuntimeError("sink")

    end = pipeline.subscribe(bad)
    assert pipeline(lambda: 3)() == 3
    end()
    assert "sink" in caplog.text


def test_sync_code_that_may_wait_is_refused_under_a_loop_at_its_first_call_and_wherever_it_would_wait() -> None:
    """The mistake shows at once, and the loop is never blocked."""
    pipeline = sw.Pipeline(sw.Retry(2, on=OSError, backoff=sw.Backoff(base=0.001)), name="waits")
    answers: list[Any] = [1, OSError("down"), 2]

    @pipeline
    def call() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def main() -> None:
        with pytest.raises(sw.WrongTwin, match="running event loop"):
            call()
        assert len(answers) == 3, "the callee was not called"

    async def later() -> None:
        with pytest.raises(sw.WrongTwin, match="running event loop"):
            call()

    asyncio.run(main())
    assert call() == 1
    asyncio.run(later())


def test_idempotency_keys_are_made_when_asked_for_and_stay() -> None:
    """One key through all attempts; a call that nobody asks pays for none."""
    seen: list[str | None] = []
    pipeline = sw.Pipeline(sw.Retry(3, backoff=sw.Backoff(base=0.001)), name="keys")

    @pipeline(idempotent=True)
    def charge() -> int:
        seen.append(sw.call_key())
        if len(seen) < 3:
            raise ConnectionError("down")
        return 1

    @pipeline(idempotency_key=lambda order: f"order-{order}")
    def keyed(order: int) -> str | None:
        return sw.call_key()

    assert charge() == 1
    assert len(set(seen)) == 1
    assert len(seen[0] or "") == 32
    assert keyed(7) == "order-7"
    assert sw.call_key() is None


def test_compilation_can_be_switched_off() -> None:
    """SEAWALL_COMPILE=0, for whoever wants to step through plain code."""
    program = (
        "import seawall as sw; f = sw.CircuitBreaker()(lambda: 1); f(); print(f.__code__.co_filename.startswith('<seawall'))"
    )
    for value, expected in (("0", "False"), ("1", "True")):
        done = subprocess.run(  # our own interpreter and text
            [sys.executable, "-c", program],
            env={"SEAWALL_COMPILE": value, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_builds_without_the_global_lock_run_the_plain_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single lines are not atomic there."""
    monkeypatch.setattr(runtime, "_HAS_GLOBAL_LOCK", False)
    function = sw.CircuitBreaker()(lambda: 1)
    assert not function.__code__.co_filename.startswith("<seawall")
    assert function() == 1


def test_a_refusal_comes_as_a_value_without_being_raised() -> None:
    """An open circuit on a hot path; counted, told and given its time as ever."""
    clock = VirtualClock()
    pipeline = sw.Pipeline(
        sw.Timeout(5), sw.Retry(3), sw.CircuitBreaker(consecutive_failures=1, open_for=4), name="hot", clock=clock
    )
    circuit, events = pipeline.policy(sw.CircuitBreaker), []
    circuit.subscribe(events.append)

    def down() -> None:
        raise OSError("down")

    assert isinstance(pipeline.try_call(down).error, OSError)
    clock.advance(1)
    refused = pipeline.try_call(down)
    assert isinstance(refused.rejection, sw.CircuitOpen)
    assert (refused.rejection.retry_after, refused.rejection.policy) == (pytest.approx(3), "circuit_breaker")
    assert circuit.snapshot().rejected == 1
    assert [event.kind for event in events] == ["breaker.opened", "breaker.rejected"]
    assert refused.rejection.__traceback__ is None
    clock.advance(3)
    assert pipeline.try_call(lambda: 7).value == 7
    circuit.isolate()
    assert not asyncio.run(pipeline.atry_call(None)).ok  # type: ignore[arg-type]  # it is never called
