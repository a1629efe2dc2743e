"""What every policy has: a name, a clock, sinks, and the verbs of a pipeline, because alone it is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from seawall.core import clock as clocks
from seawall.core.clock import Clock
from seawall.core.events import Event, Sink, Sinks, everywhere
from seawall.pipeline import registry
from seawall.pipeline.verbs import Verbs

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.run import Run

Layer = Callable[["Run"], Any]


class Policy(Verbs):
    """Base of all policies. Works alone exactly as in a pipeline: call, acall, decorate, permit, snapshot, subscribe.

    name: what errors, events and snapshots call it; None = the kind, numbered by the pipeline it stands in.
    clock: where its time comes from; None = the clock of the pipeline, or the system's.
    """

    kind: ClassVar[str] = "policy"
    may_wait: bool = False
    """Whether a sync call through it may have to wait, which a running event loop must not."""
    is_shared: bool = False
    """Whether other processes count with it, so that its limit is one limit for all of them."""
    acts_while_observing: bool = False
    """Whether it goes on in a pipeline that observes, because it refuses, holds up and cuts nothing: it adds to the call."""
    stands_for: Policy | None = None
    """The policy that stands in the pipeline in its place: one of a keyed family is made by it."""
    why_no_block: str | None = None
    """Why it cannot guard a permit block, or None when it can."""

    def __init__(self, *, name: str | None = None, clock: Clock | None = None) -> None:
        if name is not None and (not isinstance(name, str) or not name):
            raise TypeError(f"name must be a text that is not empty; got {name!r}")
        if clock is not None and not isinstance(clock, Clock):
            raise TypeError(f"clock must be a seawall Clock; got {clock!r}")
        self._given_name = name
        self._name = name or self.kind
        self._adopted = False
        self._own_clock = clock
        self._alone: Pipeline | None = None
        self.sinks = Sinks()
        registry.register(self)

    # --- name, clock, events

    @property
    def name(self) -> str:
        """What errors, events and snapshots call it."""
        return self._name

    @property
    def is_named(self) -> bool:
        """Whether its maker gave it a name."""
        return self._given_name is not None

    @property
    def own_clock(self) -> Clock | None:
        """The clock it was given, or None."""
        return self._own_clock

    @property
    def clock(self) -> Clock:
        """Where its time comes from."""
        return clocks.resolve(self._own_clock)

    def adopt(self, name: str, clock: Clock | None) -> None:
        """A pipeline takes it in: the first one names it if its maker did not, and gives it its clock if it has none.

        Raises ValueError when it already runs on another clock.
        """
        if self._given_name is None and not self._adopted:
            self._name = name
        self._adopted = True
        if clock is None or clock is self._own_clock:
            return
        if self._own_clock is not None:
            raise ValueError(f"{self.name} runs on another clock than the pipeline; give both the same clock=")
        self._own_clock = clock
        self.restart()

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Hand every event of this policy to `sink`; calling the result ends it. Raises TypeError for no callable."""
        return self.sinks.add(sink)

    def emit(self, kind: str, /, *, pipeline: str | None = None, **data: Any) -> None:
        """Tell everybody who listens. Called without any lock held."""
        if self.sinks or everywhere:
            event = Event(kind, self.name, self.clock.monotonic(), pipeline, data)
            self.sinks.emit(event)
            everywhere.emit(event)

    def take_over(self, old: Policy) -> None:
        """Go on where `old`, a policy of the same kind, was: after a file was read again."""
        self.sinks = old.sinks

    def restart(self) -> None:
        """Forget everything that happened, in place: for tests."""

    def reopen(self) -> None:
        """After a fork, in the child: nothing is held by threads that do not exist here."""

    def snapshot(self) -> Any:
        """What it holds now, as a frozen dataclass."""
        raise TypeError(f"{type(self).__name__} keeps no state of its own")

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Its place in a pipeline: a function of the run that calls `inner`. twins: the sync or the async guard module."""
        raise TypeError(f"{type(self).__name__} is no layer")

    def item_layer(self, twins: Any, inner: Layer) -> Layer:
        """Its part in the further items of a stream: by default none."""
        return inner

    # --- alone, it is a pipeline of one

    @property
    def whole(self) -> Pipeline:
        """The pipeline that holds nothing but this policy, made at its first use."""
        if self._alone is None:
            from seawall.pipeline.pipeline import Pipeline

            self._alone = Pipeline(self, name=self._given_name)
        return self._alone

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"
