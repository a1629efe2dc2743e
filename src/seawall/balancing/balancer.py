"""The balancer as people use it: told who is there, asked whom to ask next, told how it went. It never waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import EllipsisType

from seawall.balancing.errors import NoInstance
from seawall.balancing.rules.balance import BalanceRule, BalanceState
from seawall.balancing.rules.draws import point
from seawall.balancing.rules.ejection import Outliers
from seawall.balancing.rules.host import HostSnapshot, Pick, Told
from seawall.balancing.rules.pickers import Picker
from seawall.core.clock import Clock
from seawall.discovery.instance import Instance, Snapshot
from seawall.pipeline.cell import Cell
from seawall.pipeline.policy import Policy
from seawall.policies.verdict import Rejection


@dataclass(frozen=True, slots=True)
class BalancerSnapshot:
    """One balancer at one moment. panicking: so few instances are ready that ejections are ignored. draining: no instance takes
    new work, so those that are leaving are asked."""

    kind: str
    name: str
    panicking: bool
    draining: bool
    hosts: tuple[HostSnapshot, ...]


class Balancer(Policy):
    """Chooses the instance that a request goes to, and learns from what became of it. For threads and tasks alike.

    picker: how to choose. "peak_ewma" (default): latency and requests out; "least_outstanding": of two random ones
        that with fewer requests out; "round_robin"; "weighted" (round robin by weight); "random" (by weight); "maglev": the same
        instance for the same key; or one of these made by hand, such as `PeakEwma(decay=5)`.
    outliers: when to leave an instance alone; default `Outliers()`, None = never.
    error_cost: seconds that a failed request is taken to have lasted at least, >= 0, so that failing fast does not look quick.
        Default 0.5.
    panic: share of the instances, in [0, 1], below which those that are ready are not left to carry everything alone:
        ejections are then ignored. Default 0.5, 0 = never.
    slow_start: seconds in which a new or readmitted instance gets a growing share, from a tenth of its weight on; 0 = its full
        share at once. Default 10. Skipped while more than half of the instances are new. "round_robin" knows no shares.
    zone: of the caller: instances in it are preferred; default None = no preference. Traffic spills over to other zones as the
        near ones fall out (below 71 % of them), and when the best near one is `spill` times as loaded as one far away.
    spill: >= 1, default 2; None = only when near ones fall out. Pickers that compare nothing never spill by load.
    subset: talk to at most so many instances, >= 1, the same ones for the same `client`; default None = to all. Meant for
        hundreds of instances.
    client: text that tells this caller from others; default None = drawn at random.
    name, clock: see `Policy`.

    Raises ValueError or TypeError for a parameter out of range.
    Sources: Finagle's Peak EWMA, Envoy's panic threshold, slow start and priority spill-over, gRFC A68 for subsets.

    >>> balancer = Balancer("round_robin")
    >>> balancer.update([Instance("stock", port=1), Instance("stock", port=2)])
    >>> pick = balancer.pick()
    >>> balancer.settle(pick, Told.OK)
    """

    kind = "balancer"

    def __init__(
        self,
        picker: str | Picker = "peak_ewma",
        *,
        outliers: Outliers | EllipsisType | None = ...,
        error_cost: float | str = 0.5,
        panic: float = 0.5,
        slow_start: float | str = 10.0,
        zone: str | None = None,
        spill: float | None = 2.0,
        subset: int | None = None,
        client: str | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name=name, clock=clock)
        self.rule = BalanceRule(
            picker=picker,
            outliers=Outliers() if isinstance(outliers, EllipsisType) else outliers,
            error_cost=error_cost,  # type: ignore[arg-type]  # read as a duration there
            panic=panic,
            slow_start=slow_start,  # type: ignore[arg-type]
            zone=zone,
            spill=spill,
            subset=subset,
            client=f"{self.clock.random.getrandbits(64):016x}" if client is None else client,
        )
        self.cell: Cell[BalanceState] = Cell(self, self.rule)
        self._instances: tuple[Instance, ...] = ()

    # --- who is there

    def update(self, instances: Snapshot | Iterable[Instance]) -> None:
        """Take the newest list. What was learnt of those that stay is kept."""
        self._instances = instances.instances if isinstance(instances, Snapshot) else tuple(instances)
        self.cell.apply(self.rule.update, self.clock.monotonic(), self._instances)

    # --- one request

    def pick(self, key: str | None = None, tried: Collection[str] = ()) -> Pick:
        """Whom to ask. Every pick has to be settled.

        key: of the request; with "maglev" the same key meets the same instance. tried: ids of instances that this call has tried:
        others come first, and an ejected one is not asked even when there are no others. Raises NoInstance when nobody is known.
        """
        clock = self.clock
        place = None if key is None else point(key)
        answer = self.cell.apply(self.rule.admit, clock.monotonic(), clock.random.random(), place, tried)
        if isinstance(answer, Rejection):
            self.emit("balancer.rejected", reason=answer.reason)
            raise NoInstance(f"{self.name} {answer.reason}", policy=self.name, retry_after=answer.retry_after)
        return answer

    def hear(self, pick: Pick) -> None:
        """The answer has begun: for streams, whose length is no latency."""
        self.cell.apply(self.rule.hear, self.clock.monotonic(), pick)

    def settle(self, pick: Pick, told: Told) -> None:
        """The request is over. told: what that says of the instance. A second time does nothing."""
        self.cell.apply(self.rule.settle, self.clock.monotonic(), pick, told)

    def blames_service(self, pick: Pick) -> bool:
        """Whether a failure of this pick's instance is a failure of the service, because others fail as well."""
        return self.cell.apply(self._fails, pick)

    def _fails(self, state: BalanceState, pick: Pick) -> bool:
        return self.rule.service_fails(state, pick.host)

    # --- as a policy

    def snapshot(self) -> BalancerSnapshot:
        """What it holds now."""
        return self.cell.apply(self._snapshot)

    def _snapshot(self, state: BalanceState) -> BalancerSnapshot:
        hosts = self.rule.snapshot(state, self.clock.monotonic())
        return BalancerSnapshot(self.kind, self.name, state.panicking, state.draining, hosts)

    def restart(self) -> None:
        """Forget what was learnt; the instances stay."""
        if hasattr(self, "cell"):
            self.cell.restart()
            self.update(self._instances)

    def reopen(self) -> None:
        """After a fork: a lock of our own, and nothing out."""
        self.cell.reopen()
        self.cell.apply(_forget_requests)

    def __repr__(self) -> str:
        return f"<Balancer {self.name!r}: {len(self._instances)} instances>"


def _forget_requests(state: BalanceState) -> None:
    for host in (*state.hosts.values(), *state.gone.values()):
        host.forget_requests()
