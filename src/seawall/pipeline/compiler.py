"""Turns a pipeline and a function into one flat function, whose success path costs a few attribute reads.

The plain guards are the reference: compiled code shares their state, accepts what they would accept, records the successes they
would record, and leaves everything else to them. The text comes from `templates.py`; this file puts it together around the
function's own parameters, so that a call of the wrong shape fails as it would without a guard.

Nothing is generated with `SEAWALL_COMPILE=0` in the environment, nor on builds of Python without the global lock, where single
lines are not atomic: there the plain guards run, under their locks.
"""

from __future__ import annotations

import functools
import itertools
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from seawall.core.clock import SystemClock
from seawall.core.context import DEADLINE, KEY
from seawall.core.events import ENDED_WELL, Event, everywhere
from seawall.core.runtime import AT, CHEAP_LOOP
from seawall.pipeline import guard_sync
from seawall.pipeline.aid import Aid
from seawall.pipeline.gate import Gate
from seawall.pipeline.retry import GENERATED, Retry
from seawall.pipeline.run import UNMARKED, AsyncRun, Identity, SyncRun, key_of, refuse_late_work, refuse_no_work, would_run_later
from seawall.pipeline.signatures import GENERIC, Shape, shape_of
from seawall.pipeline.templates import LIMITER, SLOWLY, Part, part_of
from seawall.pipeline.timeout import DeadlineSpell, Timeout

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.policy import Layer

MOST_LAYERS: Final = 8  # Python takes no more than 20 blocks in each other, and a layer may need two
MOST_FACTORIES: Final = 512
MOST_TYPES: Final = 256

_HAS_GLOBAL_LOCK: Final = getattr(sys, "_is_gil_enabled", lambda: True)()
_factories: dict[str, Callable[..., Any]] = {}
_numbers = itertools.count(1)
_lock = threading.Lock()


def enabled() -> bool:
    """Whether guards are compiled in this process."""
    return _HAS_GLOBAL_LOCK and os.environ.get("SEAWALL_COMPILE", "1") != "0"


def compiled(pipeline: Pipeline, function: Any, identity: Identity, *, is_async: bool, plain: Callable[..., Any]) -> Any:
    """The guarded form of `function`, or None when nothing of the pipeline can be written flat.

    plain: the same by the plain guards, with the same parameters. function: None makes one whose first argument is the function.
    """
    work = Work(pipeline, identity, is_async=is_async, plain=plain)
    if not work.parts and pipeline.policies:
        return None
    guarded, regate = work.make(function)

    def told() -> Any:
        return Work(pipeline, identity, is_async=is_async, plain=plain, tells=True).make(function)[0]

    guarded.__seawall__ = work
    pipeline.gates.add(guarded, Gate(regate, plain, told, may_wait=pipeline.may_wait and not is_async))
    return guarded


class Work:
    """One compiled guard: its layers from the outermost one to the first that has no text.

    names: what its text names. cold: what that names away from the fast path. aids: each layer's way into the plain guards.
    tells: whether it tells of each call.
    """

    def __init__(
        self, pipeline: Pipeline, identity: Identity, *, is_async: bool, plain: Callable[..., Any], tells: bool = False
    ) -> None:
        self.pipeline = pipeline
        self.identity = identity
        self.is_async = is_async
        self.tells = tells
        self.names: dict[str, object] = {}
        self.cold = SimpleNamespace(plain=plain)
        self.parts: list[Part] = []
        self.aids: list[Aid] = []
        self._twins: Any = guard_sync
        if is_async:
            from seawall.pipeline import guard_async

            self._twins = guard_async
        self._chains = pipeline.chains(self._twins)
        self._port = pipeline.clock.tasks if is_async else pipeline.clock.threads
        self._collect()
        self._name()

    def make(self, function: Any) -> tuple[Any, Callable[[Any], None]]:
        """The guarded form of `function` (None: of whatever is the first argument), and what turns its gate."""
        shape = GENERIC if function is None else shape_of(function)
        names = self.names | shape.defaults | {"_sw_cold": self.cold}
        if function is not None:
            names["_sw_fn"] = function
        guarded, regate = factory(self.text(shape, sorted(names), given=function is None))(**names)
        if function is not None:
            functools.update_wrapper(guarded, function)
        return guarded, regate

    @property
    def slow(self) -> int:
        """How often the plain guards were asked."""
        return sum(aid.slow for aid in self.aids)

    def _collect(self) -> None:
        for index, policy in enumerate(self.pipeline.policies[:MOST_LAYERS]):
            aid = self._aid(index)
            self.aids.append(aid)
            setattr(self.cold, f"begin{index}", aid.begin)
            setattr(self.cold, f"tail{index}", aid.tail)
            part = part_of(policy, aid)
            if part is None:
                return
            self.parts.append(part)
            if "lanes" in part.names:
                self.names.setdefault("_sw_home_lanes", part.names["lanes"])
            self.names |= {_numbered_name(name, index): value for name, value in part.names.items()}
            for name, value in part.cold.items():
                setattr(self.cold, _numbered_name(name, index).removeprefix("_sw_"), value)

    def _aid(self, index: int) -> Aid:
        outer = self.pipeline.policies[:index]
        retries = [policy for policy in outer if isinstance(policy, Retry)]
        return Aid(
            self.pipeline,
            self.pipeline.policies[index],
            self.identity,
            is_async=self.is_async,
            make=AsyncRun if self.is_async else SyncRun,
            port=self._port,
            tail=self._chains[index],
            inner=self._chains[index + 1],
            repeat=self._twins.repeat,
            budgets=tuple(policy.budget for policy in retries if policy.budget is not None),
            limits=tuple(policy.seconds for policy in outer if isinstance(policy, Timeout)),
            retries=bool(retries),
        )

    def _name(self) -> None:
        """The objects that the frame of every guard names."""
        if type(self.pipeline.clock) is SystemClock:
            self.names["_sw_now"] = time.monotonic
            self.names["_sw_nanoseconds"] = time.monotonic_ns
        else:
            self.names["_sw_now"] = self.pipeline.clock.monotonic
        self.names["_sw_deadline"] = DEADLINE.get
        self.cold.within = self._within_task if self.is_async else self._within
        if self.is_async:
            self._name_tasks()
        else:
            self.names["_sw_known"] = KNOWN
            self.cold.look = functools.partial(look, self.pipeline.name)
        if self.tells:
            self._name_telling()
        if self.identity is not UNMARKED:
            self.names |= {"_sw_key": self._key, "_sw_set_key": KEY.set, "_sw_reset_key": KEY.reset}

    def _name_telling(self) -> None:
        """Who listens; one sink is called without a way round."""
        sinks = [*self.pipeline.sinks.all, *everywhere.all]
        self.names |= {"_sw_event": tuple.__new__, "_sw_Event": Event, "_sw_ended_well": ENDED_WELL, "_sw_name": self.pipeline.name}
        self.names["_sw_sink"] = sinks[0] if len(sinks) == 1 else self.pipeline.pass_on
        self.cold.tell_failure = self.pipeline.tell_failure
        self.cold.report = self.pipeline.sinks.report

    def _name_tasks(self) -> None:
        import asyncio

        self.cold.dated = self._dated
        self.cold.refuse = functools.partial(refuse_no_work, self.pipeline.name)
        if CHEAP_LOOP:
            self.names |= {"_sw_running": asyncio._get_running_loop, "_sw_current": asyncio.current_task}
        else:  # the running task of each loop: what current_task looks into, after it has asked for the loop
            self.names |= {"_sw_ident": threading.get_ident, "_sw_tasks": asyncio.tasks._current_tasks}  # type: ignore[attr-defined]

    # --- the text

    def text(self, shape: Shape, names: list[str], *, given: bool) -> str:
        """The source of the factory. names: of its parameters. given: whether each call brings its function as first argument."""
        whole = len(self.parts) == len(self.pipeline.policies)
        inner = self._call(shape, given=given) if whole else self._layer(SLOWLY, len(self.parts))
        for index in range(len(self.parts) - 1, -1, -1):
            part = self.parts[index]
            flags = part.flags | ({"last"} if self._is_last(index) else set())
            inner = _filled(self._layer(_chosen(part.text, flags), index), {"SLOWLY": self._layer(SLOWLY, index), "INNER": inner})
        if self.identity is not UNMARKED:
            inner = _filled(_KEYED, {"INNER": inner})
        if self.tells:
            inner = _filled(_TELLING, {"INNER": inner})
        call = f"{'_sw_fn, ' if given else ''}{shape.call}"
        body = _filled(self._frame(call), {"INNER": inner})
        alone = whole and len(self.parts) <= 1
        for word, meant in (
            ("ARGUMENTS", f"{shape.args}, {shape.kwargs}"),
            ("AWAIT ", "await " if self.is_async else ""),
            ("BEFORE", "None" if alone else "_sw_run"),
        ):
            body = body.replace(word, meant)
        if alone:
            body = body.replace("_sw_run = None\n", "")
        named = [name for name in names if name in body or name in shape.parameters]
        return _FACTORY.format(
            names=", ".join([*named, "**_sw_others"]),
            word="async def" if self.is_async else "def",
            parameters=f"{'_sw_fn, /, ' if given else ''}{shape.parameters}",
            body=_indented(body, 8),
        )

    def _layer(self, text: str, index: int) -> str:
        """A template as the layer of that number: `ARMED` becomes the nearest limit of this call around it."""
        limits = [number for number in range(index) if "_sw_limit@" in self.parts[number].text]
        armed = f"_sw_armed{limits[-1]}" if limits else "None"
        return text.strip("\n").replace("@", str(index)).replace("ARMED", armed)

    def _is_last(self, index: int) -> bool:
        """Whether nothing is left to do once this layer has its result: no layer around it looks at it, and no key is taken back."""
        outer = {part.text for part in self.parts[:index]}
        return outer <= {LIMITER} and self.identity is UNMARKED and not self.tells

    def _call(self, shape: Shape, *, given: bool) -> str:
        call = f"_sw_r = _sw_fn({shape.call})"
        if not self.is_async:
            return f"{call}\nif _sw_r is not None and _sw_r.__class__ not in _sw_known:\n    _sw_cold.look(_sw_r)"
        if given:
            return f'{call}\nif not hasattr(_sw_r.__class__, "__await__"):\n    _sw_cold.refuse(_sw_fn, _sw_r)\n_sw_r = await _sw_r'
        return f"_sw_r = await _sw_fn({shape.call})"

    def _frame(self, call: str) -> str:
        text = "".join(part.text for part in self.parts)
        flags = {"limits"} if "_sw_limit@" in text else set()
        if CHEAP_LOOP:
            flags.add("cheap")
        if self.tells:
            flags.add("told")
        frame = _chosen(_FRAME_TASKS if self.is_async else _FRAME_THREADS, frozenset(flags))
        return frame.replace("CALL", call).replace("CLOCK", self._clock(text))

    def _clock(self, text: str) -> str:
        """The one clock read of an attempt, in seconds, in nanoseconds, or both."""
        if "_sw_ns" not in text:
            return "_sw_t = _sw_now()" if self.tells or any(part.timed for part in self.parts) else ""
        alone = all("_sw_ns" in part.text for part in self.parts if part.timed)
        if alone and type(self.pipeline.clock) is SystemClock:  # another read costs less than the conversion of one
            return "_sw_ns = _sw_nanoseconds()" + ("\n_sw_t = _sw_now()" if self.tells else "")
        return "_sw_t = _sw_now()\n_sw_ns = int(_sw_t * 1e9)"

    # --- what the frame asks

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return key_of(self.identity, self.pipeline, args, kwargs)

    def _within(self, held: Any) -> float | None:
        """The caller's deadline as a moment; None when it has passed."""
        moment: float = held[AT] if held.__class__ is list else held
        return moment if moment > self._port.now() else None

    def _within_task(self, held: Any) -> float | None:
        """The caller's deadline as a moment; None when it has passed, or when nothing cuts this task then."""
        return self._within(held) if self._port.cuts_here(held) else None

    async def _dated(self, guarded: Callable[..., Any], fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """One call under a deadline that cuts nothing yet: it is armed once, around the compiled call."""
        run = AsyncRun(self.pipeline, self._port, fn, args, kwargs, self.identity)
        if run.deadline is None or run.deadline <= self._port.now():
            return await self.cold.plain(*args, **kwargs)
        spell = DeadlineSpell(run)
        try:
            return await guarded(*args, **kwargs)
        except BaseException as error:
            spell.check(error)
            raise
        finally:
            spell.end()


_FACTORY: Final = """\
def _sw_make({names}):
    _sw_gate = None
    {word} guarded({parameters}):
{body}
    def regate(to):
        nonlocal _sw_gate
        _sw_gate = to
    return guarded, regate
"""

_FRAME_THREADS: Final = """
if _sw_gate is not None: #if not told
    return _sw_gate(CALL) #if not told
if _sw_deadline() is not None and _sw_cold.within(_sw_deadline()) is None: #if not limits
    return _sw_cold.plain(CALL) #if not limits
_sw_o = _sw_deadline() #if limits
if _sw_o is not None: #if limits
    _sw_o = _sw_cold.within(_sw_o) #if limits
    if _sw_o is None: #if limits
        return _sw_cold.plain(CALL) #if limits
_sw_run = None
CLOCK
INNER
return _sw_r
"""

_FRAME_TASKS: Final = """
if _sw_gate is not None: #if not told
    return await _sw_gate(CALL) #if not told
_sw_o = _sw_deadline()
if _sw_o is not None:
    _sw_o = _sw_cold.within(_sw_o)
    if _sw_o is None:
        return await _sw_cold.dated(guarded, _sw_fn, CALL) #if not told
        return await _sw_cold.plain(CALL) #if told
_sw_run = None
_sw_home = _sw_home_lanes.lane #if limits
if _sw_home.loop is not _sw_running(): #if limits and cheap
if _sw_home.life._thread_id != _sw_ident(): #if limits and not cheap
    _sw_home = _sw_home_lanes.find() #if limits
_sw_task = _sw_current(_sw_home.loop) #if limits and cheap
_sw_task = _sw_tasks.get(_sw_home.loop) #if limits and not cheap
if _sw_task is None: #if limits
    return await _sw_cold.plain(CALL) #if limits
CLOCK
INNER
return _sw_r
"""

_KEYED: Final = """
_sw_held_key = _sw_set_key(_sw_key(ARGUMENTS))
try:
    INNER
finally:
    _sw_reset_key(_sw_held_key)
"""


_TELLING: Final = """
try:
    INNER
except BaseException as _sw_error:
    _sw_cold.tell_failure(_sw_error, _sw_t)
    raise
_sw_ended = _sw_now()
_sw_told = _sw_event(_sw_Event, ("call.ended", _sw_name, _sw_ended, _sw_name, _sw_ended_well, _sw_ended - _sw_t))
try:
    _sw_sink(_sw_told)
except Exception:
    _sw_cold.report(_sw_sink, _sw_told)
"""


def factory(text: str) -> Callable[..., Any]:
    """The factory of a source, made once per text. Its lines stand in `linecache`, so that tracebacks show them."""
    with _lock:
        known = _factories.get(text)
        if known is not None:
            return known
        path = f"{GENERATED}guard {next(_numbers)}>"
        space: dict[str, Any] = {}
        exec(compile(text, path, "exec"), space)  # noqa: S102  # our own text, put together from our own templates
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        if len(_factories) >= MOST_FACTORIES:
            _factories.pop(next(iter(_factories)))
        made: Callable[..., Any] = space["_sw_make"]
        _factories[text] = made
        return made


KNOWN: Final[set[type]] = {int, str, bytes, float, bool, dict, list, tuple, set}
"""Types of results that are known to be no work that would run later, unguarded."""


def look(name: str, value: Any) -> None:
    """Refuse a result whose work has not happened yet; remember the types of all others."""
    if would_run_later(value):
        refuse_late_work(name, value)
    if len(KNOWN) < MOST_TYPES:
        KNOWN.add(type(value))


def _numbered_name(name: str, index: int) -> str:
    return name if name.startswith("_sw_") else f"_sw_{name}{index}"


def _chosen(text: str, flags: frozenset[str]) -> str:
    """The lines of a text that stand under these flags."""
    lines = []
    for line in text.strip("\n").splitlines():
        code, _, condition = line.partition(" #if ")
        if not condition or any(all(_holds(term, flags) for term in way.split(" and ")) for way in condition.split(" or ")):
            lines.append(code)
    return "\n".join(lines)


def _holds(term: str, flags: frozenset[str]) -> bool:
    return term.removeprefix("not ") in flags if not term.startswith("not ") else term.removeprefix("not ") not in flags


def _filled(text: str, words: dict[str, str]) -> str:
    """The text with each line that is one of the words replaced by that word's lines, as deep as it stood."""
    lines: list[str] = []
    for line in text.strip("\n").splitlines():
        inner = words.get(line.strip())
        lines.append(line if inner is None else _indented(inner, len(line) - len(line.lstrip())))
    return "\n".join(lines)


def _indented(text: str, by: int) -> str:
    return "\n".join(f"{' ' * by}{line}" if line else line for line in text.splitlines())
