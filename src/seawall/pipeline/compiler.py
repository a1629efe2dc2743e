"""Turns a pipeline and a function into one flat function, whose success path costs a few attribute reads.

The plain guards are the reference: compiled code shares their state, accepts what they would accept, records the successes they
would record, and leaves everything else to them. Its text comes from `templates.py` and `writing.py`.

A compiled function has no branch for tests and telemetry: it is switched by giving it other code (`Work.turn`, see `gate.py`).
Nothing is generated with `SEAWALL_COMPILE=0` in the environment, nor on builds of Python without the global lock, where single
lines are not atomic: there the plain guards run, under their locks.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import linecache
import threading
import time
import weakref
from collections.abc import Callable
from types import CodeType, FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from seawall.core.clock import SystemClock
from seawall.core.context import DEADLINE, KEY
from seawall.core.events import ENDED_WELL, Event, everywhere
from seawall.core.nesting import GENERATED
from seawall.core.runtime import AT, CHEAP_LOOP, loop_is_running, one_line_is_one_step
from seawall.pipeline import guard_sync
from seawall.pipeline.aid import Aid
from seawall.pipeline.retry import Retry
from seawall.pipeline.run import UNMARKED, AsyncRun, Identity, SyncRun, key_of, refuse_late_work, refuse_no_work, would_run_later
from seawall.pipeline.signatures import GENERIC, shape_of
from seawall.pipeline.templates import Part, part_of
from seawall.pipeline.timeout import DeadlineSpell, Timeout
from seawall.pipeline.writing import Form, Writer

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline

MOST_LAYERS: Final = 8  # Python takes no more than 20 blocks in each other, and a layer may need two
MOST_SOURCES: Final = 1024
MOST_TYPES: Final = 256

_sources: dict[str, CodeType] = {}
_numbers = itertools.count(1)
_lock = threading.Lock()


def enabled() -> bool:
    """Whether guards are compiled in this process."""
    return one_line_is_one_step()


def compiled(pipeline: Pipeline, function: Any, identity: Identity, *, is_async: bool, plain: Callable[..., Any]) -> Any:
    """The guarded form of `function`, or None when nothing of the pipeline can be written flat.

    plain: the same by the plain guards, with the same parameters. function: None makes one whose first argument is the function.
    """
    work = Work(pipeline, identity, is_async=is_async, plain=plain)
    if not work.parts and pipeline.policies:
        return None
    guarded = work.make(function)
    pipeline.gates.add(guarded, work)
    return guarded


class Work:
    """One compiled guard: its layers from the outermost one to the first that has no text.

    names: what its text names. cold: what that names away from the fast path. aids: each layer's way into the plain guards.
    """

    def __init__(self, pipeline: Pipeline, identity: Identity, *, is_async: bool, plain: Callable[..., Any]) -> None:
        self.pipeline = pipeline
        self.identity = identity
        self.is_async = is_async
        self.names: dict[str, object] = {}
        self.cold = SimpleNamespace(plain=plain, first=self._first)
        self.parts: list[Part] = []
        self.aids: list[Aid] = []
        self._opened = is_async or not pipeline.may_wait
        self._tells = False
        self._twins: Any = guard_sync
        if is_async:
            from seawall.pipeline import guard_async

            self._twins = guard_async
        self._chains = pipeline.chains(self._twins)
        self._port: Any = pipeline.clock.tasks if is_async else pipeline.clock.threads
        self._collect()
        self._name()

    def make(self, function: Any) -> Any:
        """The guarded form of `function` (None: of whatever is the first argument)."""
        self._writer = Writer(
            parts=tuple(self.parts),
            whole=len(self.parts) == len(self.pipeline.policies),
            shape=GENERIC if function is None else shape_of(function),
            given=function is None,
            is_async=self.is_async,
            marked=self.identity is not UNMARKED,
            exact=type(self.pipeline.clock) is SystemClock,
        )
        self._called = getattr(function, "__name__", None) or "guarded"
        space = self.names | {"_sw_cold": self.cold, "_sw_fn": function, "__name__": __name__, "__builtins__": builtins}
        guarded: Any = FunctionType(self._code("away"), space)
        if function is not None:
            functools.update_wrapper(guarded, function)
            guarded.__defaults__ = self._writer.shape.defaults
            guarded.__kwdefaults__ = self._writer.shape.keyword_defaults
        space["_sw_guarded"] = guarded
        guarded.__seawall__ = self
        self._guarded = weakref.ref(guarded)
        return guarded

    # --- switching it

    def turn(self, *, away: bool, tells: bool) -> None:
        """Give the function the code that fits: of the plain guards, of the first call, of the flat guard, or of the one that
        tells."""
        guarded = self._guarded()
        if guarded is None:
            return
        self._tells = tells
        if tells and not away:
            guarded.__globals__.update(self._telling())
        form: Form = "away" if away else "first" if not self._opened else "told" if tells else "flat"
        guarded.__code__ = self._code(form)

    def _first(self, *args: Any, **kwargs: Any) -> Any:
        """The first call of a sync function whose guards may wait: a mistake under a running loop shows here, at once; later
        the guards refuse it wherever they would wait."""
        if not loop_is_running():
            self._opened = True
            self.turn(away=False, tells=self._tells)
        return self.cold.plain(*args, **kwargs)

    def _code(self, form: Form) -> CodeType:
        """The code of a form, under the name of the user's function."""
        return code_of(self._writer.text(form)).replace(co_name=self._called)

    def _telling(self) -> dict[str, object]:
        """What the telling form names: who listens; one sink is called without a way round."""
        pipeline, sinks = self.pipeline, [*self.pipeline.sinks.all, *everywhere.all]
        self.cold.tell_failure, self.cold.report = pipeline.tell_failure, pipeline.sinks.report
        return {
            "_sw_event": tuple.__new__,
            "_sw_Event": Event,
            "_sw_ended_well": ENDED_WELL,
            "_sw_name": pipeline.name,
            "_sw_sink": sinks[0] if len(sinks) == 1 else pipeline.pass_on,
        }

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
        if self.identity is not UNMARKED:
            self.names |= {"_sw_key": self._key, "_sw_set_key": KEY.set, "_sw_reset_key": KEY.reset}

    def _name_tasks(self) -> None:
        import asyncio

        self.cold.dated = self._dated
        self.cold.refuse = functools.partial(refuse_no_work, self.pipeline.name)
        if CHEAP_LOOP:
            self.names |= {"_sw_running": asyncio._get_running_loop, "_sw_current": asyncio.current_task}
        else:  # the running task of each loop: what current_task looks into, after it has asked for the loop
            self.names |= {"_sw_ident": threading.get_ident, "_sw_tasks": asyncio.tasks._current_tasks}  # type: ignore[attr-defined]

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


def code_of(text: str) -> CodeType:
    """The code of a source, compiled once per text. Its lines stand in `linecache`, so that tracebacks show them."""
    with _lock:
        known = _sources.get(text)
        if known is not None:
            return known
        path = f"{GENERATED}guard {next(_numbers)}>"
        module = compile(text, path, "exec")
        code = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        if len(_sources) >= MOST_SOURCES:
            oldest = _sources.pop(next(iter(_sources)))
            linecache.cache.pop(oldest.co_filename, None)
        _sources[text] = code
        return code


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
