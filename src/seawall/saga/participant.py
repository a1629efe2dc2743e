"""The other end of a saga's step: a guard that makes an effect happen at most once per key, whatever order requests come in.

A saga repeats a step with the same key when it does not know how it ended, and undoes what may have happened. That is only
right if the service at the other end remembers its keys. `Participant` does that: for functions, for an ASGI application, in
a file of its own or in the service's own transaction.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.wire import FENCE, IDEMPOTENCY_KEY, ISSUED, UNDO
from seawall.saga.codec import LARGEST, Codec
from seawall.saga.context import Context, Unknown
from seawall.saga.errors import (
    BadCall,
    EffectBusy,
    EffectExpired,
    EffectUndone,
    KeyReused,
    StaleFence,
)
from seawall.saga.lease import Fence
from seawall.saga.participant_table import Busy, EffectFile, Rows, savepoint
from seawall.saga.tombstone import NO_FENCE, Effect, Verdict, too_old

if TYPE_CHECKING:
    from seawall.saga.participant_asgi import Guarded

P = ParamSpec("P")
R = TypeVar("R")
LONGEST_KEY: Final = 256
SWEEP_EVERY: Final = 256


@dataclass(slots=True)
class Call:
    """One request to take effect, or to take it back, as its sender names it.

    key: of the effect, 1 to 256 printable ASCII characters; for an undo that of what it takes back. fence: of the saga's
    owner; the default (0, 0) is of a sender that has none, and is refused once a higher one was seen. issued: when the
    request was made, in seconds since 1970; None when the sender does not say, and then its age is not judged. undo: whether
    it takes back.
    tx: the service's own open transaction (a connection of sqlite3, psycopg or SQLAlchemy, or a session of it), or None for
    the participant's own file.
    doubtful: told to the function: an earlier attempt may have taken effect.
    Raises BadCall for a value out of range.
    """

    key: str
    fence: Fence = NO_FENCE
    issued: float | None = None
    undo: bool = False
    tx: Any = None
    doubtful: bool = False

    def __post_init__(self) -> None:
        key = self.key
        if not isinstance(key, str) or not 1 <= len(key) <= LONGEST_KEY or not (key.isascii() and key.isprintable()):
            raise BadCall(f"key must be 1 to {LONGEST_KEY} printable ASCII characters; got {key!r:.300}")

    @classmethod
    def of(cls, ctx: Context, *, tx: Any = None) -> Call:
        """The request that a step, or an undo, makes in the same process."""
        return cls(ctx.undoes or ctx.key, ctx.fence, ctx.issued, ctx.undoes is not None, tx)

    @classmethod
    def read(cls, headers: Mapping[str, str], *, tx: Any = None) -> Call | None:
        """The request that headers tell of, with lower-case names; None without a key. Raises BadCall."""
        key = headers.get(IDEMPOTENCY_KEY.lower())
        if key is None:
            return None
        undo = headers.get(UNDO.lower(), "0")
        if undo not in ("0", "1"):
            raise BadCall(f'{UNDO} must be "1" or left out; got {undo!r:.40}')
        return cls(key, _fence(headers.get(FENCE.lower())), _issued(headers.get(ISSUED.lower())), undo == "1", tx)


class Participant:
    """Remembers keys: `participant = Participant("stock-effects.db")`, then `@participant.step`, or `participant.guard(app)`.

    path: a SQLite file for effects outside of any transaction; None (default) when every call brings its own `tx`.
    retention: seconds (or "14d") for which an ended key, tombstones too, is remembered, > 2 * skew. Default 14 days. A do
        that was issued longer ago than that, less `skew`, is refused. It must be longer than any saga that uses the
        participant may take.
    skew: seconds by which the clocks of senders may differ from this one's. Default 5 minutes.
    retry_after: seconds that a request is told to wait while another one with its key is under way. Default 1.
    largest: bytes of a stored answer, and of a request's body in `guard`. Default 1 MiB.

    Raises ValueError or TypeError for a parameter out of range.
    """

    def __init__(
        self, path: str | Path | None = None, *, retention: float | str = "14d", skew: float | str = 300.0,
        retry_after: float | str = 1.0, largest: int = LARGEST, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self.skew = units.seconds("skew", skew, zero=True)
        self.retention = units.seconds("retention", retention)
        if self.retention <= 2 * self.skew:
            raise ValueError(f"retention must be more than 2 * skew ({2 * self.skew:g} s); got {self.retention:g} s")
        self.retry_after = units.seconds("retry_after", retry_after)
        self.codec = Codec(largest=largest)
        self.clock = clocks.resolve(clock)
        self._file = None if path is None else EffectFile(path)
        self._begun = 0

    # --- for functions

    def step(self, fn: Callable[P, R]) -> GuardedStep[P, R]:
        """Guard a function, sync or async, whose first parameter is a `Call`: it runs at most once per key, later calls get its
        stored result. Its other arguments are the request's fingerprint. Give it an undo with `@name.undo`."""
        return GuardedStep(self, fn)

    def guard(self, app: Any, *, paths: tuple[str, ...] = ("/",), required: bool = False) -> Guarded:
        """An ASGI application that is guarded by key: see `seawall.saga.participant_asgi.Guarded`."""
        from seawall.saga.participant_asgi import Guarded

        return Guarded(self, app, paths=paths, required=required)

    def make_table(self, tx: Any) -> None:
        """Make the table `seawall_effect` in the service's own database, for calls that bring a `tx`."""
        Rows(tx).make()

    def sweep(self, tx: Any = None) -> int:
        """Forget up to 1000 keys that ended longer ago than `retention`; how many. Done by itself for the participant's file."""
        before = self.clock.wall() - self.retention
        return Rows(tx).sweep(before) if tx is not None else self._own().write(lambda rows: rows.sweep(before))

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    # --- the verdicts, for whatever stands before them

    def begin(self, call: Call, fingerprint: str) -> Attempt:
        """Ask the table. The attempt says whether to run, or which answer to repeat.

        Raises EffectBusy, EffectUndone, EffectExpired, StaleFence, KeyReused.
        """
        if not call.undo:
            self._check_age(call)
        if call.tx is not None:
            rows = Rows(call.tx)
            try:
                rows.lock(call.key)
            except Busy as error:
                raise self._refusal("wait", call, None) from error
            verdict, effect, answer = self._ask(rows, call, fingerprint, call.key)
            return self._attempt(call, verdict, effect, answer, call.key)
        own = self._own()
        holder = own.holder()
        try:
            verdict, effect, answer = own.write(lambda rows: self._ask(rows, call, fingerprint, holder))
            attempt = self._attempt(call, verdict, effect, answer, holder)
        except BaseException:
            own.let_go(holder)
            raise
        if not attempt.run:
            own.let_go(holder)
        self._begun += 1
        if self._begun % SWEEP_EVERY == 0:
            self.sweep()
        return attempt

    def _ask(self, rows: Rows, call: Call, fingerprint: str, holder: str) -> tuple[Verdict, Effect, str | None]:
        effect, answer = rows.load(call.key)
        lives = call.tx is None and self._own().lives(effect.holder)
        if call.undo:
            verdict, after = effect.undo(holder, call.fence, holder_lives=lives)
        else:
            verdict, after = effect.do(holder, call.fence, fingerprint, holder_lives=lives)
        if after != effect:
            rows.save(call.key, after, answer, self.clock.wall())
        return verdict, after, answer

    def _attempt(self, call: Call, verdict: Verdict, effect: Effect, answer: str | None, holder: str) -> Attempt:
        if verdict not in ("run", "repeat"):
            raise self._refusal(verdict, call, effect)
        call.doubtful = effect.doubtful
        return Attempt(self, call, verdict == "run", answer, holder)

    def settle(self, attempt: Attempt, how: str, answer: str | None = None) -> None:
        """Write how an attempt ended: "done", "undone", "rejected" (no effect), or "lost" (nobody knows)."""

        def write(rows: Rows) -> None:
            effect, before = rows.load(attempt.call.key)
            verb = {"done": effect.finish, "undone": effect.undone, "rejected": effect.reject, "lost": effect.lose}[how]
            rows.save(attempt.call.key, verb(attempt.holder), answer if how == "done" else before, self.clock.wall())

        if attempt.call.tx is not None:
            write(Rows(attempt.call.tx))
            return
        try:
            self._own().write(write)
        finally:
            self._own().let_go(attempt.holder)

    def _own(self) -> EffectFile:
        if self._file is None:
            raise BadCall("this Participant has no file, so every call must bring the service's own transaction as tx")
        return self._file

    def _check_age(self, call: Call) -> None:
        now = self.clock.wall()
        if call.issued is None:
            return
        if call.issued > now + self.skew:
            raise BadCall(f"the request was issued {call.issued - now:.0f} s from now; clocks may differ by {self.skew:g} s")
        if too_old(call.issued, now, self.retention, self.skew):
            raise EffectExpired(
                f"the request for key {call.key} was issued {now - call.issued:.0f} s ago; keys are remembered for "
                f"{self.retention:g} s, so nobody can tell any more whether it was undone"
            )

    def _refusal(self, verdict: Verdict, call: Call, effect: Effect | None) -> Exception:
        if verdict == "wait":
            doing = "undo" if effect is not None and effect.mark == "undoing" else "request"
            return EffectBusy(f"a {doing} with key {call.key} is under way; ask again", retry_after=self.retry_after)
        if verdict == "refuse":
            return EffectUndone(f"key {call.key} was taken back, so it cannot take effect any more")
        if verdict == "changed":
            return KeyReused(f"key {call.key} was used with another request; a key belongs to one request")
        fence = call.fence if effect is None else effect.fence
        seen, given = (f"{one.timeline}.{one.epoch}" for one in (fence, call.fence))
        return StaleFence(f"key {call.key} has seen fence {seen}, so one of {given} comes from an owner that lost the saga")


@dataclass(slots=True)
class Attempt:
    """One run of a guarded effect. run: whether to run it; else `answer` is what to repeat."""

    participant: Participant
    call: Call
    run: bool
    answer: str | None
    holder: str


class GuardedStep(Generic[P, R]):
    """A function behind a participant. Call it with a `Call` first; `take_back` runs its undo."""

    def __init__(self, participant: Participant, fn: Callable[P, R]) -> None:
        functools.update_wrapper(self, fn)
        self._participant = participant
        self._fn = fn
        self._undo: Callable[..., Any] | None = None
        self._rejects: tuple[type[BaseException], ...] = ()
        self._name = getattr(fn, "__qualname__", "step")

    def undo(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Say what takes the effect back: a function of the same arguments and `result`, which is `Unknown` when an attempt was
        lost. It is not called at all when the effect never began."""
        self._undo = fn
        return fn

    def rejects(self, *kinds: type[Exception]) -> GuardedStep[P, R]:
        """Say which errors prove that nothing happened: the key is free again after them. After any other it is in doubt."""
        self._rejects = kinds
        return self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Take effect, or give the stored result again. Raises what `Participant.begin` raises."""
        call, rest = self._split(args, undo=False)
        fingerprint = self._participant.codec.fingerprint([self._name, rest, kwargs], f"the arguments of {self._name}")
        if inspect.iscoroutinefunction(self._fn):
            return self._run_async(call, fingerprint, self._fn, args, kwargs)  # type: ignore[return-value]
        return self._run(call, fingerprint, self._fn, args, kwargs)  # type: ignore[no-any-return]

    def take_back(self, *args: Any) -> Any:
        """Take the effect back, whatever became of it. Raises EffectBusy while it is being made, and StaleFence."""
        call, rest = self._split(args, undo=True)
        if self._undo is None:
            raise BadCall(f"{self._name} has no undo; write one with @{self._name}.undo")
        if inspect.iscoroutinefunction(self._undo):
            return self._run_async(call, "", self._undo, (call, *rest), {})
        return self._run(call, "", self._undo, (call, *rest), {})

    def _split(self, args: tuple[Any, ...], *, undo: bool) -> tuple[Call, tuple[Any, ...]]:
        call = args[0] if args else None
        if not isinstance(call, Call) or call.undo != undo:
            verb = "take_back is called with a Call of an undo" if undo else "is called with a Call of a do"
            raise BadCall(f"{self._name} {verb} as its first argument; got {call!r:.120}")
        return call, args[1:]

    def _run(self, call: Call, fingerprint: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        attempt = self._participant.begin(call, fingerprint)
        if not attempt.run:
            return self._stored(attempt)
        try:
            if call.tx is None:
                value = fn(*args, **kwargs, **self._result(attempt))
            else:
                with savepoint(Rows(call.tx)):
                    value = fn(*args, **kwargs, **self._result(attempt))
            text = self._text(attempt, value)
        except BaseException as error:
            self._participant.settle(attempt, self._judge(call, error))
            raise
        self._participant.settle(attempt, "undone" if call.undo else "done", text)
        return value

    async def _run_async(
        self, call: Call, fingerprint: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        aside = _aside(call)
        attempt = await aside(self._participant.begin, call, fingerprint)
        if not attempt.run:
            return self._stored(attempt)
        try:
            if call.tx is None:
                value = await fn(*args, **kwargs, **self._result(attempt))
            else:
                with savepoint(Rows(call.tx)):
                    value = await fn(*args, **kwargs, **self._result(attempt))
            text = self._text(attempt, value)
        except BaseException as error:
            self._participant.settle(attempt, self._judge(call, error))  # here: a cancelled task must not wait
            raise
        await asyncio.shield(aside(self._participant.settle, attempt, "undone" if call.undo else "done", text))
        return value

    def _judge(self, call: Call, error: BaseException) -> str:
        """What an error says: with the service's transaction all is rolled back, so it proves that nothing happened."""
        if call.undo:
            return "lost"
        return "rejected" if call.tx is not None or isinstance(error, self._rejects) else "lost"

    def _text(self, attempt: Attempt, value: Any) -> str | None:
        return None if attempt.call.undo else self._participant.codec.write(value, f"the result of {self._name}")

    def _stored(self, attempt: Attempt) -> Any:
        return None if attempt.call.undo else self._read(attempt.answer)

    def _read(self, answer: str | None) -> Any:
        wanted = typing.get_type_hints(self._fn).get("return", Any)
        return self._participant.codec.read(answer, wanted, f"the stored result of {self._name}")

    def _result(self, attempt: Attempt) -> dict[str, Any]:
        """What an undo is told of what it takes back."""
        if not attempt.call.undo:
            return {}
        lost = attempt.call.doubtful
        return {"result": Unknown("an attempt was lost") if lost else self._read(attempt.answer)}


def _aside(call: Call) -> Callable[..., Any]:
    """Synced writes of the own file go into a thread; a transaction of the caller stays in the caller's."""

    async def here(fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)

    return asyncio.to_thread if call.tx is None else here


def _fence(text: str | None) -> Fence:
    if text is None:
        return NO_FENCE
    timeline, dot, epoch = text.partition(".")
    if not (dot and timeline.isdigit() and epoch.isdigit() and text.isascii() and len(text) <= 36):
        raise BadCall(f"{FENCE} must be two whole numbers with a dot between; got {text!r:.60}")
    return Fence(int(timeline), int(epoch))


def _issued(text: str | None) -> float | None:
    if text is None:
        return None
    whole, _, part = text.partition(".")
    if not (whole.isdigit() and (part.isdigit() or not part) and text.isascii() and len(text) <= 20):
        raise BadCall(f"{ISSUED} must be seconds since 1970; got {text!r:.60}")
    return float(text)
