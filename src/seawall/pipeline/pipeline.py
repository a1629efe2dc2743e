"""Policies in order, first = outermost, around any callable."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from seawall.core import clock as clocks
from seawall.core.clock import Clock
from seawall.core.events import Event, Sink, Sinks, everywhere
from seawall.core.outcome import Classifier, DefaultClassifier
from seawall.core.runtime import refuse_under_loop
from seawall.pipeline import guard_sync
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.run import AsyncRun, Identity, SyncRun
from seawall.pipeline.streams import AsyncStream, SyncStream
from seawall.pipeline.switch import SWITCH
from seawall.pipeline.timeout import CallerDeadline
from seawall.pipeline.verbs import Verbs

if TYPE_CHECKING:
    from seawall.pipeline.explain import Explanation

Q = TypeVar("Q", bound=Policy)

_DEADLINE = CallerDeadline()


@dataclass(frozen=True, slots=True)
class PipelineSnapshot:
    """One pipeline at one moment: the snapshots of its policies, outermost first.

    observes: whether any of its policies only observes; observed: the names of those.
    """

    name: str
    observes: bool
    policies: tuple[Any, ...]
    observed: tuple[str, ...] = ()


class Pipeline(Verbs):
    """Policies around a call, first = outermost. Decorates, calls, and guards blocks; sync and async alike.

    policies: what guards the call, in order. The same object in two pipelines is the same circuit, bucket or bulkhead.
    name: what errors, events and snapshots call it; None = the qualified name of what it first decorates.
    clock: where all its time comes from; None = a clock that one of its policies was given, else the system's.
    classifier: what errors and results mean to all policies in it; None = `DefaultClassifier()`.
    observe: count and tell what would have been refused, held up in a queue or cut, but refuse, hold up and cut nothing. True =
        all policies, or the names of those that only observe. What adds to a call (attempts, copies, answers from memory) goes
        on, and deadlines of the caller hold. Default False.

    Raises TypeError for what is no policy; ValueError for a policy or a name that stands in it twice, for two clocks, or for
    a name to observe that no policy has.
    """

    def __init__(
        self,
        *policies: Policy,
        name: str | None = None,
        clock: Clock | None = None,
        classifier: Classifier | None = None,
        observe: bool | Collection[str] = False,
    ) -> None:
        if name is not None and (not isinstance(name, str) or not name):
            raise TypeError(f"name must be a text that is not empty; got {name!r}")
        if classifier is not None and not isinstance(classifier, Classifier):
            raise TypeError(f"classifier must have error(), result() and judges_results; got {classifier!r}")
        _refuse_strangers(policies)
        self.policies = policies
        self.classifier: Classifier = DefaultClassifier() if classifier is None else classifier
        self._given_name = name
        self._own_clock = _common_clock(policies, clock)
        self.sinks = Sinks()
        _name_policies(policies, self._own_clock)
        self._observed = _observed(policies, observe)
        self.observes = bool(self._observed)
        self._may_wait = any(policy.may_wait and not _moot(policy, self._observed) for policy in policies)
        self._sync = _chain(policies, guard_sync, guard_sync.invoke)
        self._async: Layer | None = None
        self._streams: dict[str, tuple[Layer, Layer]] = {}

    @classmethod
    def recommended(
        cls,
        *policies: Policy,
        name: str | None = None,
        clock: Clock | None = None,
        classifier: Classifier | None = None,
        observe: bool | Collection[str] = False,
    ) -> Pipeline:
        """A pipeline of these policies, given in any order, in the recommended one (docs/patterns/pipeline.md).

        Of two timeouts the longer one bounds the whole call, the shorter one each attempt; a single one bounds each attempt if
        there is a Retry. Raises ValueError for two policies of one kind, TypeError for a kind without a recommended place.
        """
        from seawall.pipeline.order import in_order

        ordered = in_order(policies)
        return cls(*ordered, name=name, clock=clock, classifier=classifier, observe=observe)

    # --- what it is called and what it tells

    @property
    def name(self) -> str:
        """What errors, events and snapshots call it."""
        return self._given_name or "pipeline"

    @property
    def clock(self) -> Clock:
        """Where its time comes from."""
        return clocks.resolve(self._own_clock)

    def take_name(self, function: Any) -> None:
        """An unnamed pipeline is called after the first function that it decorates."""
        if self._given_name is None:
            self._given_name = getattr(function, "__qualname__", type(function).__qualname__)

    @property
    def heard(self) -> bool:
        """Whether anybody listens to the calls of this pipeline."""
        return bool(self.sinks) or bool(everywhere)

    def tell(self, kind: str, **data: Any) -> None:
        """Tell those who listen about a call."""
        if self.heard:
            event = Event(kind, self.name, self.clock.monotonic(), self.name, data)
            self.sinks.emit(event)
            everywhere.emit(event)

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Hand the events of its calls and of all its policies to `sink`; calling the result ends it."""
        endings = [self.sinks.add(sink), *(policy.subscribe(sink) for policy in self.policies)]

        def unsubscribe() -> None:
            for end in endings:
                end()

        return unsubscribe

    @property
    def whole(self) -> Pipeline:
        """Itself."""
        return self

    # --- reaching inside

    def policy(self, which: type[Q] | str) -> Q:
        """The one policy of that type or name. Raises LookupError when there is none, or more than one."""
        found = [p for p in self.policies if p.name == which or (isinstance(which, type) and isinstance(p, which))]
        if len(found) != 1:
            names = ", ".join(repr(policy.name) for policy in self.policies) or "none"
            raise LookupError(f"{self.name} has {len(found)} policies that match {which!r}; its policies are {names}")
        return found[0]  # type: ignore[return-value]

    def snapshot(self) -> PipelineSnapshot:
        """The state of all its policies, as frozen dataclasses."""
        observed = tuple(policy.name for policy in self.policies if self.only_observes(policy))
        return PipelineSnapshot(self.name, self.observes, tuple(policy.snapshot() for policy in self.policies), observed)

    def explain(self) -> Explanation:
        """What it does to one call in the worst case, and what in it would surprise."""
        from seawall.pipeline.explain import explain

        return explain(self)

    def order(self) -> str:
        """Its policies, outermost first, each with the reason for the place that is recommended for its kind."""
        from seawall.pipeline.order import reasons

        return reasons(self.policies)

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {' > '.join(policy.name for policy in self.policies) or 'nothing'}>"

    def only_observes(self, policy: Policy) -> bool:
        """Whether this policy only observes in this pipeline: it counts and tells, and refuses, holds up and cuts nothing."""
        return self.observes and (policy in self._observed or policy.stands_for in self._observed)

    # --- running: the reference, which the compiler must equal

    def run_sync(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity) -> Any:
        """One call of a plain function."""
        if SWITCH.off:
            return function(*args, **kwargs)
        if self._may_wait:
            refuse_under_loop(f"a guarded call of {self.name}", "acall(...) or an `async def` function")
        return guard_sync.perform(SyncRun(self, self.clock.threads, function, args, kwargs, identity), self._sync)

    async def run_async(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity
    ) -> Any:
        """One call of an async function."""
        from seawall.pipeline import guard_async

        run = AsyncRun(self, self.clock.tasks, function, args, kwargs, identity)
        if SWITCH.off:
            return await run.answer(function(*args, **kwargs))
        if self._async is None:
            self._async = _chain(self.policies, guard_async, guard_async.invoke)
        return await guard_async.perform(run, _within_deadline(run, self._async, guard_async))

    def run_stream(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity
    ) -> Generator[Any, Any, Any]:
        """One call of a generator function."""
        if SWITCH.off:
            return (yield from function(*args, **kwargs))
        if self._may_wait:
            refuse_under_loop(f"a guarded stream of {self.name}", "an async generator function")
        run = SyncStream(self, self.clock.threads, function, args, kwargs, identity)
        opening, items = self._stream_chains(guard_sync)
        yield from guard_sync.stream(run, opening, items)
        return run.returned

    def run_async_stream(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity
    ) -> AsyncGenerator[Any, Any]:
        """One call of an async generator function."""
        from seawall.pipeline import guard_async

        if SWITCH.off:
            return function(*args, **kwargs)  # type: ignore[no-any-return]
        run = AsyncStream(self, self.clock.tasks, function, args, kwargs, identity)
        opening, items = self._stream_chains(guard_async)
        return guard_async.stream(run, _within_deadline(run, opening, guard_async), items)

    def _stream_chains(self, twins: Any) -> tuple[Layer, Layer]:
        chains = self._streams.get(twins.KIND)
        if chains is None:
            items: Layer = twins.step
            for policy in reversed(self.policies):
                items = policy.item_layer(twins, items)
            chains = self._streams[twins.KIND] = (_chain(self.policies, twins, twins.invoke), items)
        return chains


def _chain(policies: tuple[Policy, ...], twins: Any, innermost: Layer) -> Layer:
    """The layers of a pipeline as one function of the run. Inside a thread pool everything is sync."""
    chain = innermost
    for index in range(len(policies) - 1, -1, -1):
        policy = policies[index]
        if policy.kind == "thread_bulkhead" and twins.KIND != "threads":
            chain = _chain(policies[index + 1 :], guard_sync, guard_sync.invoke)
        chain = policy.layer(twins, chain)
    return chain


def _within_deadline(run: Any, chain: Layer, twins: Any) -> Layer:
    """The chain, cut at the deadline that the caller's context brought along, if it brought one."""
    return chain if run.deadline is None else partial(twins.timeout, _DEADLINE, chain)


def _observed(policies: tuple[Policy, ...], observe: Any) -> frozenset[Policy]:
    """The policies that only observe: all, none, or those of the names given."""
    if isinstance(observe, bool):
        return frozenset(policies if observe else ())
    if isinstance(observe, str) or not isinstance(observe, Collection) or not all(isinstance(name, str) for name in observe):
        raise TypeError(f"observe must be True, False, or a list of names of policies; got {observe!r}")
    unknown = sorted(set(observe) - {policy.name for policy in policies})
    if unknown:
        names = ", ".join(repr(policy.name) for policy in policies)
        raise ValueError(f"observe must name policies of the pipeline, which are {names}; got {unknown[0]!r}")
    return frozenset(policy for policy in policies if policy.name in observe)


def _moot(policy: Policy, observed: frozenset[Policy]) -> bool:
    """Whether a policy that may wait does not, because it only observes. What adds to a call goes on, and may wait."""
    return policy in observed and not policy.acts_while_observing


def _refuse_strangers(policies: tuple[Any, ...]) -> None:
    for policy in policies:
        if isinstance(policy, Pipeline):
            raise TypeError(f"a pipeline cannot stand in another; put its policies there: *{policy.name}.policies")
        if not isinstance(policy, Policy):
            raise TypeError(f"a pipeline is made of policies such as Retry(3); got {policy!r}")
        if type(policy).layer is Policy.layer:
            raise TypeError(f"{policy!r} is no layer of a pipeline; give it to the policy that uses it")
    for index, policy in enumerate(policies):
        if policy in policies[:index]:
            raise ValueError(f"{policy.name} stands in the pipeline twice; it would guard against itself")


def _common_clock(policies: tuple[Policy, ...], clock: Clock | None) -> Clock | None:
    if clock is not None:
        if not isinstance(clock, Clock):
            raise TypeError(f"clock must be a seawall Clock; got {clock!r}")
        return clock
    return next((policy.own_clock for policy in policies if policy.own_clock is not None), None)


def _name_policies(policies: tuple[Policy, ...], clock: Clock | None) -> None:
    """Unnamed policies are called after their kind: `timeout`, `timeout-2`. Two of one name would be told apart by nobody."""
    taken: set[str] = set()
    for policy in policies:
        if policy.is_named and policy.name in taken:
            raise ValueError(f"two policies are called {policy.name!r}; give each circuit, limit and timeout its own name")
        if policy.is_named:
            taken.add(policy.name)
    for policy in policies:
        name, number = policy.kind, 1
        while name in taken:
            number += 1
            name = f"{policy.kind}-{number}"
        policy.adopt(name, clock)
        taken.add(policy.name)
