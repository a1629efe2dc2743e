"""What people write: a saga as a class, its steps, and what takes each step back. The class is data once it is defined."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, Protocol, TypeVar, overload

from seawall.core import units
from seawall.policies.backoff import Backoff
from seawall.policies.retry import RetryRule
from seawall.saga.context import Context
from seawall.saga.errors import DefinitionError
from seawall.saga.plan import Graph, Kind, Node

if TYPE_CHECKING:
    from seawall.pipeline.retry import Retry

In = TypeVar("In")
Out = TypeVar("Out")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
After = "Step[Any] | str | Iterable[Step[Any] | str] | None"
FOREVER: Final = RetryRule(attempts=1_000_000_000, backoff=Backoff(base=0.2, cap=60.0), retry_after_cap=3600.0)
ONCE: Final = RetryRule(attempts=1)


class Through(Protocol):
    """What a step can run through: a pipeline, or a policy alone."""

    @property
    def name(self) -> str | None: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...
    def acall(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class Repeats:
    """How a step or an undo is repeated. rule: how often and how far apart. on: which errors; None = every one.
    forever: it must succeed in the end. alert_after: failed attempts after which somebody is told, and the saga counts as
    stuck."""

    rule: RetryRule = ONCE
    on: Any = None
    forever: bool = False
    alert_after: int = 10


@dataclass(frozen=True, slots=True)
class Options:
    """What a step is told beside its function."""

    repeats: Repeats = field(default_factory=Repeats)
    timeout: float | None = None
    rejects: tuple[type[BaseException], ...] = ()
    through: Through | None = None
    tx: bool = False
    tx_limit: float = 5.0
    locks: Callable[[Any], Iterable[str]] | None = None
    on_lock: Literal["wait", "fail", "stash"] = "stash"
    lock_wait: float = 10.0
    expect_version: Callable[..., Any] | None = None
    nothing_to_undo: bool = False


class Step(Generic[R_co]):
    """One step of a saga, made by `@step`, `sleep`, `wait_signal` or `subsaga`. Its decorators are `undo`, `probe`,
    `alternate`."""

    def __init__(self, name: str, node: dict[str, Any], options: Options, fn: Callable[..., Any] | None) -> None:
        self.name = name
        self.fn = fn
        self.options = options
        self._after = node.pop("after", None)
        self.traits = node
        self.kind: Kind = node.get("kind", "step")
        self.undo_fn: Callable[..., Any] | None = None
        self.undo_repeats = Repeats(FOREVER, forever=True)
        self.undo_timeout: float | None = None
        self.probe_fn: Callable[..., Any] | None = None
        self.alternates: dict[str, Callable[..., Any]] = {}
        self.extra: dict[str, Any] = {}
        self.__doc__ = getattr(fn, "__doc__", None)

    def __set_name__(self, owner: type, name: str) -> None:
        if not self.name:
            self.name = name

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    @overload
    def undo(self, fn: Callable[..., Any], /) -> Callable[..., Any]: ...
    @overload
    def undo(
        self, /, *, retry: Retry | None = None, timeout: float | str | None = None, alert_after: int = 10
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...

    def undo(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        retry: Retry | None = None,
        timeout: float | str | None = None,
        alert_after: int = 10,
    ) -> Any:
        """Say what takes this step back: a function of (self, ctx, input, result), where result may be `Unknown`.

        It is repeated for ever, with the waits of `retry` (default: 0.2 s growing to 60 s), because a saga that is not taken
        back is nobody's. timeout: seconds for one attempt. alert_after: failed attempts, >= 1, after which the saga is told of
        and counts as stuck, while it goes on trying. Default 10.
        """
        if fn is None:
            rule = FOREVER if retry is None else RetryRule(attempts=FOREVER.attempts, backoff=retry.rule.backoff)
            self.undo_repeats = Repeats(rule, forever=True, alert_after=units.whole("alert_after", alert_after))
            self.undo_timeout = None if timeout is None else units.seconds("timeout", timeout)
            return self._set_undo
        return self._set_undo(fn)

    def _set_undo(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if self.undo_fn is not None:
            raise DefinitionError(f"step {self.name!r} has two undos; name the second one with @{self.name}.alternate")
        self.undo_fn = fn
        return fn

    def probe(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Say who can tell whether the step took effect: a function of (self, ctx, input) that returns `Done(result)`,
        `NotDone()` or `Unknown()`. It is asked before a step that may have been started is run again or undone."""
        self.probe_fn = fn
        return fn

    def alternate(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Another undo, for the day when the first has a bug: a human names it (`seawall saga resolve ID --alternate NAME`)."""
        self.alternates[fn.__name__] = fn
        return fn

    def node(self) -> Node:
        """The step as the rules see it."""
        undo = self.undo_fn is not None or self.kind == "saga"
        return Node(name=self.name, after=_names(self._after), undo=undo, probe=self.probe_fn is not None, **self.traits)


class _Maker:
    """Turns a function into a step that keeps the function's result type."""

    def __init__(self, traits: dict[str, Any], options: Options) -> None:
        self._traits = traits
        self._options = options

    @overload
    def __call__(self, fn: Callable[[Any, Context, Any], Awaitable[R]], /) -> Step[R]: ...
    @overload
    def __call__(self, fn: Callable[[Any, Context, Any], R], /) -> Step[R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Step[Any]:
        return Step(fn.__name__, dict(self._traits), self._options, fn)


def step(
    *,
    after: Step[Any] | str | Iterable[Step[Any] | str] | None = None,
    retry: Retry | None = None,
    timeout: float | str | None = None,
    rejects: tuple[type[BaseException], ...] | type[BaseException] = (),
    through: Through | None = None,
    undo: Literal["none"] | None = None,
    pivot: bool = False,
    retriable: bool = False,
    at_most_once: bool = False,
    savepoint: bool = False,
    tx: bool = False,
    tx_limit: float | str = 5.0,
    locks: Callable[[Any], Iterable[str]] | None = None,
    on_lock: Literal["wait", "fail", "stash"] = "stash",
    lock_wait: float | str = 10.0,
    expect_version: Callable[..., Any] | None = None,
    alert_after: int = 10,
) -> _Maker:
    """Make a method of a `Saga` one of its steps: a function of (self, ctx, input), sync (run in a thread) or async.

    after: the step or steps that must have passed before; default None = it may start at once, beside others.
    retry: attempts and waits, in one process; default None = one attempt. timeout: seconds for one attempt, or text.
    rejects: error types that prove that nothing happened. Every other error leaves the outcome unknown, so the undo runs too.
    through: a pipeline (or policy) to run through; when it refuses, the saga waits until `retry_after` and no attempt is spent.
    undo: "none" says that there is nothing to take back, as for a step that only reads.
    pivot: the go or no-go; behind it there is no way back. Without an undo its outcome must be learned, so it is repeated, with
    the
        same key, until it is ok or rejected.
    retriable: repeated until it succeeds; the only kind allowed behind the pivot.
    at_most_once: an intent is written first; after a crash it is probed, or the saga is stuck, never repeated blindly.
    savepoint: a later failure goes back no further than to here, and then forward again, up to three times.
    tx: a sync function that gets `ctx.tx`: its rows, the step's record and `ctx.tx.publish` events commit together.
        tx_limit: seconds it may hold the database, default 5.
    locks: from the input to names that no other saga may hold meanwhile (a semantic lock, kept until the saga ends).
        on_lock: "stash" leaves the worker until they are free, "wait" stays for at most `lock_wait` seconds (default 10),
        "fail" counts as rejected. Deadlocks are found, and the youngest saga in one goes backward.
    expect_version: a function of (self, ctx, input) to a pair (expected, found); when they differ the step counts as rejected.
    alert_after: failed attempts of a step that must succeed, >= 1, after which the saga counts as stuck. Default 10.

    Raises DefinitionError, ValueError or TypeError, here or when the class is defined.
    """
    must = retriable
    repeats = Repeats(FOREVER if must else ONCE, forever=must, alert_after=units.whole("alert_after", alert_after))
    if retry is not None:
        rule = RetryRule(attempts=FOREVER.attempts, backoff=retry.rule.backoff) if must else retry.rule
        repeats = Repeats(rule, wish(retry), forever=must, alert_after=alert_after)
    types = rejects if isinstance(rejects, tuple) else (rejects,)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        raise TypeError(f"rejects must name subclasses of Exception; got {rejects!r}")
    options = Options(
        repeats=repeats,
        timeout=None if timeout is None else units.seconds("timeout", timeout),
        rejects=types,
        through=through,
        tx=tx,
        tx_limit=units.seconds("tx_limit", tx_limit),
        locks=locks,
        on_lock=units.one_of("on_lock", on_lock, ("wait", "fail", "stash")),  # type: ignore[arg-type]
        lock_wait=units.seconds("lock_wait", lock_wait),
        expect_version=expect_version,
        nothing_to_undo=undo == "none",
    )
    if undo not in (None, "none"):
        raise ValueError(f'undo must be "none" or left out (and then written with @<step>.undo); got {undo!r}')
    traits = {"pivot": pivot, "retriable": retriable, "at_most_once": at_most_once, "savepoint": savepoint}
    return _Maker({**traits, "after": after}, options)


def sleep(length: float | str, *, after: Step[Any] | str | Iterable[Step[Any] | str] | None = None) -> Step[None]:
    """A step that only waits `length` seconds (or "2d"), through any number of restarts."""
    made: Step[None] = Step("", {"kind": "sleep", "after": after}, Options(nothing_to_undo=True), None)
    made.extra["length"] = units.seconds("length", length)
    return made


def wait_signal(
    signal: str,
    type: Callable[..., R] | Any = Any,  # what people would write
    *,
    timeout: float | str | None = None,
    after: Step[Any] | str | Iterable[Step[Any] | str] | None = None,
) -> Step[Any]:
    """A step that waits for `handle.signal(signal, payload)`; its result is the payload, read as `type`.

    A signal that comes early is kept. timeout: seconds (or text) from when the step's turn came; then it counts as rejected and
    the saga goes backward. Default None = no limit but the saga's deadline.
    """
    made: Step[Any] = Step("", {"kind": "signal", "after": after}, Options(nothing_to_undo=True), None)
    made.extra |= {"signal": signal, "type": type}
    made.extra["length"] = None if timeout is None else units.seconds("timeout", timeout)
    return made


def subsaga(
    saga: type[Saga[Any, R]],
    make: Callable[[Any, Context, Any], Any],
    *,
    after: Step[Any] | str | Iterable[Step[Any] | str] | None = None,
) -> Step[R]:
    """A step that is a saga of its own, with the input `make(self, ctx, input)`; its result is that saga's output.

    It counts as one step: when it is taken back, the whole inner saga is. So the inner saga has no pivot.
    """
    made: Step[R] = Step("", {"kind": "saga", "after": after}, Options(), None)
    made.extra |= {"saga": saga, "make": make}
    return made


@dataclass(frozen=True, slots=True)
class Definition:
    """A saga class as data. hash: of what in-flight sagas depend on; two classes with one hash can take over from each other."""

    cls: type[Saga[Any, Any]]
    name: str
    version: int
    graph: Graph
    steps: dict[str, Step[Any]]
    hash: str
    input_type: Any
    output_type: Any
    result_types: dict[str, Any]
    deadline: float | None
    has_output: bool
    last: str

    def as_json(self) -> str:
        """The graph as it is kept beside the sagas that run by it."""
        return json.dumps(describe(self.name, self.version, self.graph), sort_keys=True)


class Saga(Generic[In, Out]):
    """Base of sagas: `class PlaceOrder(Saga[Order, Receipt])`, with `name`, `version`, optional `deadline` and `@step` methods.

    name: unique among the sagas of a journal. version: >= 1, default 1; a change of the graph needs another one while sagas are
    in
    flight. deadline: seconds (or "2h") from the start, after which a saga that has not passed its pivot is taken back. returns:
    how
    often it may return to a save-point. `output(self, ctx, input)` makes the saga's result; without it that of the one last step.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    deadline: ClassVar[float | str | None] = None
    returns: ClassVar[int] = 3
    definition: ClassVar[Definition]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        steps = {item.name: item for base in reversed(cls.__mro__) for item in vars(base).values() if isinstance(item, Step)}
        if steps:
            from seawall.saga.checks import define

            scope = sys._getframe(1)
            cls.definition = define(cls, steps, {**scope.f_globals, **scope.f_locals})


def describe(name: str, version: int, graph: Graph) -> dict[str, Any]:
    """A graph as plain data, for its hash, its row and its diff."""
    nodes = [{key: getattr(node, key) for key in Node.__dataclass_fields__} for node in graph.nodes]
    return {"name": name, "version": version, "returns": graph.returns, "steps": nodes}


def hash_of(name: str, version: int, graph: Graph) -> str:
    """What tells two graphs apart, as 16 hex digits."""
    return hashlib.sha256(json.dumps(describe(name, version, graph), sort_keys=True).encode()).hexdigest()[:16]


def graph_of(text: str) -> Graph:
    """A graph from its row."""
    said = json.loads(text)
    nodes = tuple(Node(**{**node, "after": tuple(node["after"])}) for node in said["steps"])
    return Graph(nodes, said["returns"])


def _names(after: Any) -> tuple[str, ...]:
    if after is None:
        return ()
    items = (after,) if isinstance(after, (Step, str)) else tuple(after)
    return tuple(item if isinstance(item, str) else item.name for item in items)


def wish(retry: Any) -> Any:
    """What the user's Retry names as worth repeating: types, a predicate, or None for its default."""
    from seawall.pipeline.retry import transient

    return None if retry.on is transient else retry.on
