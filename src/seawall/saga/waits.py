"""Steps that wait: a length of time, a signal, a saga inside the saga."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from seawall.saga.children import child_result, start_child, take_back
from seawall.saga.errors import NotSerialisable, SignalTimeout

if TYPE_CHECKING:
    from seawall.saga.act import Act


class Postponed(Exception):  # it is not an error, it is a wait
    """The action waits. until: a moment by the time of day, None = no end. outside: something from outside can end the wait."""

    def __init__(self, until: float | None, why: str, *, outside: bool = False) -> None:
        super().__init__(why)
        self.until = until
        self.why = why
        self.outside = outside


async def _until(act: Act, length: float | None) -> float | None:
    """The moment at which a wait ends, written down when it begins."""
    runner = act.runner
    if length is None:
        return None
    if act.name not in runner.facts.intents:
        moment = act.host.now() + length
        await runner.record(act.name, "intent", "waits", round_=act.action.round, result=json.dumps(moment))
    return float(json.loads(runner.facts.intents[act.name].result or "0"))


async def wait_out(act: Act) -> None:
    """Wait a length of time that began when it was written down."""
    until = await _until(act, act.step.extra["length"])
    assert until is not None
    if act.host.now() < until:
        raise Postponed(until, f"{act.name} sleeps")
    await act.ended("ok", 1)


async def take_signal(act: Act) -> None:
    """Take a signal that came, or wait for it."""
    runner, extra = act.runner, act.step.extra
    until = await _until(act, extra["length"])
    if extra["signal"] in runner.signals:
        text = runner.signals[extra["signal"]]
        try:
            runner.results[act.name] = runner.read_result(act.name, text)
        except NotSerialisable as error:
            await act.ended("rejected", 1, error=f"{type(error).__name__}: {error}")
            return
        await act.ended("ok", 1, result=text)
    elif until is not None and act.host.now() >= until:
        await act.ended("rejected", 1, error=f"{SignalTimeout.__name__}: {extra['signal']} did not come in time")
    else:
        raise Postponed(until, f"signal {extra['signal']}", outside=True)


async def run_child(act: Act) -> None:
    """Start the inner saga and wait for its end."""
    runner = act.runner
    context = runner.context(act.name, act.action.round)
    runner.started.add(act.name)
    ended = await child_result(act, context) or await start_child(act, context)
    if ended is None:
        raise Postponed(None, f"the inner saga {context.key}", outside=True)
    if ended.status == "completed":
        runner.results[act.name] = runner.read_result(act.name, ended.output)
        await act.ended("ok", 1, result=ended.output)
    else:
        await act.ended("rejected", 1, error=f"the inner saga is {ended.status}: {ended.error}")


async def undo_child(act: Act) -> None:
    """Take the inner saga back and wait for that."""
    context = act.runner.context(act.name, act.action.round)
    status = await take_back(act, context)
    if status is None:
        raise Postponed(None, f"the inner saga {context.key} goes back", outside=True)
    await act.ended("skipped" if status == "compensated_partially" else "ok", 1)


KINDS: Final[dict[str, Callable[[Act], Awaitable[None]]]] = {"sleep": wait_out, "signal": take_signal, "saga": run_child}
