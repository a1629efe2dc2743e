"""Policies in order, first = outermost, around any callable."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Generator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from seawall.core import clock as clocks
from seawall.core.clock import Clock
from seawall.core.context import DEADLINE, deadline_at
from seawall.core.events import ENDED_WELL, Event, Sink, Sinks, everywhere
from seawall.core.outcome import Classifier, DefaultClassifier
from seawall.core.runtime import loop_is_running, refuse_under_loop
from seawall.pipeline import guard_sync
from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.gate import Gates
from seawall.pipeline.observing import moot, observed
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.retry import Retry, transient
from seawall.pipeline.run import AsyncRun, Identity, SyncRun
from seawall.pipeline.streams import AsyncStream, SyncStream
from seawall.pipeline.switch import SWITCH
from seawall.pipeline.timeout import CallerDeadline, Timeout
from seawall.pipeline.verbs import Verbs

if TYPE_CHECKING:
    from seawall.core.errors import Rejected
    from seawall.pipeline.explain import Explanation
    from seawall.pipeline.retry_budget import RetryBudget

Q = TypeVar("Q", bound=Policy)

_DEADLINE = CallerDeadline()
MOST_REMEMBERED: Final = 256
"""How many decorated functions a pipeline remembers for `explain()`."""


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
        self.gates = Gates(self)
        self.listen(Sinks())
        _name_policies(policies, self._own_clock)
        self._observed = observed(policies, observe)
        self.observes = bool(self._observed)
        self.may_wait = any(policy.may_wait and not moot(policy, self._observed) for policy in policies)
        self._chains: dict[str, tuple[Layer, ...]] = {}
        self._callers: dict[tuple[bool, bool], Callable[..., Any] | None] = {}
        self._streams: dict[str, tuple[Layer, Layer]] = {}
        self.guarded: dict[str, bool] = {}
        self.processes: int | None = None

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

    def listen(self, sinks: Sinks) -> None:
        """Tell of its calls to these sinks from now on."""
        self.sinks = sinks
        sinks.on_change(self.gates.refresh)
        self.gates.refresh()

    def remember(self, function: Any, *, idempotent: bool) -> None:
        """Note a decorated function for `explain()`; of very many only the first are kept."""
        name = getattr(function, "__qualname__", type(function).__qualname__)
        if len(self.guarded) < MOST_REMEMBERED or name in self.guarded:
            self.guarded[name] = self.guarded.get(name, True) and idempotent

    @property
    def heard(self) -> bool:
        """Whether anybody listens to the calls of this pipeline."""
        return bool(self.sinks) or bool(everywhere)

    def tell_success(self, began: float) -> None:
        """Tell that a call that began at the moment `began` has its result."""
        if self.heard:
            at = self.clock.monotonic()
            self.pass_on(Event("call.ended", self.name, at, self.name, ENDED_WELL, at - began))

    def tell_failure(self, error: BaseException, began: float) -> None:
        """Tell that a call that began at the moment `began` leaves with an error."""
        if self.heard:
            at, data = self.clock.monotonic(), {"outcome": self.classifier.error(error).kind.value, "error": error}
            self.pass_on(Event("call.ended", self.name, at, self.name, data, at - began))

    def pass_on(self, event: Event) -> None:
        """Hand an event of a call to everybody who listens."""
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

    def explain(self, processes: int | None = None) -> Explanation:
        """What it does to one call in the worst case, and what in it would surprise.

        processes: how many processes run it, in [1, 100 000]. Default None = what the configuration file says, else what
        GUNICORN_CMD_ARGS or WEB_CONCURRENCY say, else 1. Raises ValueError or TypeError for another number.
        """
        from seawall.pipeline.explain import explain

        return explain(self, processes)

    def order(self) -> str:
        """Its policies, outermost first, each with the reason for the place that is recommended for its kind."""
        from seawall.pipeline.order import reasons

        return reasons(self.policies)

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {' > '.join(policy.name for policy in self.policies) or 'nothing'}>"

    def only_observes(self, policy: Policy) -> bool:
        """Whether this policy only observes in this pipeline: it counts and tells, and refuses, holds up and cuts nothing."""
        return self.observes and (policy in self._observed or policy.stands_for in self._observed)

    # --- running

    def run_sync(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity) -> Any:
        """One call of a plain function."""
        caller = self._caller(identity, is_async=False)
        if caller is None:
            return self.plain_sync(function, args, kwargs, identity)
        return caller(function, *args, **kwargs)

    async def run_async(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity
    ) -> Any:
        """One call of an async function."""
        caller = self._caller(identity, is_async=True)
        if caller is None:
            return await self.plain_async(function, args, kwargs, identity)
        return await caller(function, *args, **kwargs)

    def _caller(self, identity: Identity, *, is_async: bool) -> Callable[..., Any] | None:
        """The compiled guard whose first argument is the function, made once; None for a call with a key of its own."""
        if identity.key is not None:
            return None
        key = (is_async, identity.idempotent)
        if key not in self._callers:
            from seawall.pipeline.wrap import caller

            self._callers[key] = caller(self, identity, is_async=is_async)
        return self._callers[key]

    def refusal(self) -> Rejected | None:
        """The rejection of a circuit that is open, without raising it, or None: then the call has to be made to find out.

        Looks no further than the first circuit, and only through layers that would hand its rejection on as it is.
        """
        circuit, budgets = self._front
        if circuit is None or circuit.cell.state.window is not None or self.observes or self.heard or SWITCH.off:
            return None
        if deadline_at() is not None or (self.may_wait and loop_is_running()):
            return None
        rejection = circuit.turn_away(self.name)
        if rejection is not None:
            for budget in budgets:
                budget.enter()
        return rejection

    @cached_property
    def _front(self) -> tuple[CircuitBreaker | None, list[RetryBudget]]:
        budgets: list[RetryBudget] = []
        for policy in self.policies:
            if type(policy) is CircuitBreaker:
                return policy, budgets
            repeats = type(policy) is Retry and policy.on is transient
            if type(policy) is not Timeout and not repeats:
                break
            if isinstance(policy, Retry) and policy.budget is not None:
                if policy.budget.rule.counts_ends:
                    break
                budgets.append(policy.budget)
        return None, []

    # --- running plainly: the reference, which compiled code must equal

    def plain_sync(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity) -> Any:
        """One call of a plain function by the plain guards."""
        if SWITCH.off:
            return function(*args, **kwargs)
        if self.may_wait:
            refuse_under_loop(f"a guarded call of {self.name}", "acall(...) or an `async def` function")
        run = SyncRun(self, self.clock.threads, function, args, kwargs, identity)
        return guard_sync.perform(run, self.chains(guard_sync)[0])

    async def plain_async(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity
    ) -> Any:
        """One call of an async function by the plain guards."""
        from seawall.pipeline import guard_async

        run = AsyncRun(self, self.clock.tasks, function, args, kwargs, identity)
        if SWITCH.off:
            return await run.answer(function(*args, **kwargs))
        return await guard_async.perform(run, _within_deadline(run, self.chains(guard_async)[0], guard_async))

    def run_stream(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity
    ) -> Generator[Any, Any, Any]:
        """One call of a generator function."""
        if SWITCH.off:
            return (yield from function(*args, **kwargs))
        if self.may_wait:
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

    def chains(self, twins: Any) -> tuple[Layer, ...]:
        """The plain guards from each layer inwards: the first is the whole pipeline, the last the call itself."""
        chains = self._chains.get(twins.KIND)
        if chains is None:
            chains = self._chains[twins.KIND] = _chains_of(self.policies, twins, twins.invoke)
        return chains

    def _stream_chains(self, twins: Any) -> tuple[Layer, Layer]:
        chains = self._streams.get(twins.KIND)
        if chains is None:
            items: Layer = twins.step
            for policy in reversed(self.policies):
                items = policy.item_layer(twins, items)
            chains = self._streams[twins.KIND] = (self.chains(twins)[0], items)
        return chains


def _chains_of(policies: tuple[Policy, ...], twins: Any, innermost: Layer) -> tuple[Layer, ...]:
    """The layers of a pipeline as functions of the run, from each one inwards. Inside a thread pool everything is sync."""
    chains = [innermost]
    for index in range(len(policies) - 1, -1, -1):
        policy, inner = policies[index], chains[0]
        if policy.kind == "thread_bulkhead" and twins.KIND != "threads":
            inner = _chains_of(policies[index + 1 :], guard_sync, guard_sync.invoke)[0]
        chains.insert(0, policy.layer(twins, inner))
    return tuple(chains)


def _within_deadline(run: Any, chain: Layer, twins: Any) -> Layer:
    """The chain, cut at the deadline that the caller's context brought along, if it brought one that cuts nothing yet."""
    if run.deadline is None or run.port.cuts_here(DEADLINE.get()):
        return chain
    return partial(twins.timeout, _DEADLINE, chain)


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
