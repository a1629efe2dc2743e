"""The balancer's rule: which hosts may be asked now, which of them is, and what its answer teaches.

`update` takes a new list of instances, `admit` gives a Pick, `hear` its first byte, `settle` its end. Hosts stand in one of three
rows: ready, on probation, ejected. `open` is who may be asked; it is worked out anew only when something changed or a moment
named in `due` has come, so that a pick does nothing but choose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import exp
from typing import Final

from seawall.balancing.rules.ejection import Outliers
from seawall.balancing.rules.host import NEVER, Host, HostSnapshot, Pick, Told
from seawall.balancing.rules.maglev import Table, subset
from seawall.balancing.rules.pickers import PICKERS, PeakEwma, Picker, sample
from seawall.core import units
from seawall.discovery.instance import Instance
from seawall.policies.verdict import Events, Note, Rejection

LOCAL_SURPLUS: Final = 1.4
"""How much more than its share a zone is trusted to carry: all traffic stays while 1 / 1.4 = 71 % of it are well (Envoy)."""
REMEMBERED: Final = 60.0
"""Seconds for which a host that left is remembered, in case the registry only blinked."""
MOST_REMEMBERED: Final = 1000
_STEPS: Final = 20  # in which slow start grows
_LEAST_SHARE: Final = 0.1


class BalanceState:
    """What the rule knows. hosts: by id; table: for keys, made at the first one; panicking: whether ejections are ignored."""

    __slots__ = ("draining", "due", "far", "gone", "hosts", "near", "near_share", "open", "panicking", "probation", "table")

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.gone: dict[str, Host] = {}
        self.open: tuple[Host, ...] = ()
        self.near: tuple[Host, ...] = ()
        self.far: tuple[Host, ...] = ()
        self.near_share = 1.0
        self.probation: tuple[Host, ...] = ()
        self.panicking = False
        self.draining = False
        self.due = NEVER
        self.table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class BalanceRule:
    """How to choose. Units, ranges and defaults: see `seawall.balancing.Balancer`."""

    picker: str | Picker = "peak_ewma"
    outliers: Outliers | None = field(default_factory=Outliers)
    error_cost: float = 0.5
    panic: float = 0.5
    slow_start: float = 10.0
    zone: str | None = None
    spill: float | None = 2.0
    subset: int | None = None
    client: str = ""
    chooser: Picker = field(init=False, repr=False, compare=False)
    latency: PeakEwma = field(init=False, repr=False, compare=False)
    keyed: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        if isinstance(self.picker, str):
            units.one_of("picker", self.picker, (*PICKERS, "maglev"))
        elif not hasattr(self.picker, "pick"):
            raise TypeError(f"picker must be one of {(*PICKERS, 'maglev')}, or have pick() and load(); got {self.picker!r}")
        put(self, "keyed", self.picker == "maglev")
        chooser = PICKERS.get(self.picker, PICKERS["peak_ewma"]) if isinstance(self.picker, str) else self.picker
        put(self, "chooser", chooser)
        put(self, "latency", chooser if isinstance(chooser, PeakEwma) else PeakEwma())
        put(self, "error_cost", units.seconds("error_cost", self.error_cost, zero=True))
        units.ratio("panic", self.panic, zero=True)
        put(self, "slow_start", units.seconds("slow_start", self.slow_start, zero=True))
        if self.spill is not None:
            units.number("spill", self.spill, least=1.0)
        if self.subset is not None:
            units.whole("subset", self.subset)
        if self.outliers is not None and not isinstance(self.outliers, Outliers):
            raise TypeError(f"outliers must be an Outliers or None; got {self.outliers!r}")

    def start(self, now: float) -> BalanceState:
        """Nobody is known."""
        return BalanceState()

    # --- who is there

    def update(self, state: BalanceState, now: float, instances: Iterable[Instance]) -> Events:
        """Take the newest list: those that stay keep what was learnt of them, those that are new start slowly."""
        wanted = self._wanted(state, instances)
        before, first = state.hosts, not state.hosts
        hosts: dict[str, Host] = {}
        for one in wanted:
            hosts[one.id] = host = before.get(one.id) or state.gone.pop(one.id, None) or Host(one, now)
            if host.instance.address != one.address:  # another process under an old name: nothing is known of it
                hosts[one.id] = host = Host(one, now)
            if first and host.picked == 0:
                host.born = -NEVER
            host.instance, host.zone = one, one.zone
        for id, host in before.items():
            if id not in hosts:
                host.gone_at = now
                state.gone[id] = host
        self._forget(state, now)
        added, removed = sorted(hosts.keys() - before.keys()), sorted(before.keys() - hosts.keys())
        state.hosts = hosts
        if state.table is not None and not state.table.fits(hosts.values()):
            state.table = None
        events = self.refresh(state, now)
        if added or removed:
            events = (Note("balancer.changed", {"added": added, "removed": removed, "total": len(hosts)}), *events)
        return events

    def _wanted(self, state: BalanceState, instances: Iterable[Instance]) -> tuple[Instance, ...]:
        """Those that take new work; when there are none, those that are finishing what they have are better than nobody."""
        listed = tuple(instances)
        ready = tuple(one for one in listed if one.state == "ready")
        state.draining = not ready
        usable = ready or tuple(one for one in listed if one.state == "draining")
        weighty = tuple(one for one in usable if one.weight > 0)
        return subset(weighty or usable, self.subset, self.client)

    def _forget(self, state: BalanceState, now: float) -> None:
        gone = state.gone
        for id in [id for id, host in gone.items() if now - host.gone_at > REMEMBERED]:
            del gone[id]
        while len(gone) > MOST_REMEMBERED:
            del gone[next(iter(gone))]

    # --- who may be asked

    def refresh(self, state: BalanceState, now: float) -> Events:
        """Work out anew who may be asked, and when that changes by itself."""
        notes: list[Note] = []
        hosts = tuple(state.hosts.values())
        due = NEVER
        for host in hosts:
            if host.status == "ejected" and host.until <= now:
                host.status = "probation"
                notes.append(Note("balancer.probing", {"instance": host.id}))
            if host.status == "ejected":
                due = min(due, host.until)
        state.due = min(due, self._slow_start(hosts, now))
        ready = tuple(host for host in hosts if host.status == "ready")
        panicking = bool(hosts) and len(ready) < self.panic * len(hosts)
        if panicking != state.panicking:
            state.panicking = panicking
            kind = "balancer.panicked" if panicking else "balancer.calmed"
            notes.append(Note(kind, {"ready": len(ready), "total": len(hosts)}))
        state.probation = () if panicking else tuple(host for host in hosts if host.status == "probation")
        state.open = hosts if panicking else ready or state.probation or hosts
        self._split(state, hosts)
        return tuple(notes)

    def _slow_start(self, hosts: tuple[Host, ...], now: float) -> float:
        """Set what is left of each weight; the moment at which that has to be done again."""
        window = self.slow_start
        young = [host for host in hosts if now - host.born < window]
        skips = 2 * len(young) > len(hosts)  # when most are new, there is nobody to spare them for
        for host in hosts:
            host.handicap = 1.0 / (host.instance.weight or 1.0)
        if not young or skips:
            return min((host.born + window for host in young), default=NEVER)
        for host in young:
            host.handicap /= max(_LEAST_SHARE, (now - host.born) / window)
        return now + window / _STEPS

    def _split(self, state: BalanceState, hosts: tuple[Host, ...]) -> None:
        """Near and far hosts, and the share of the traffic that near ones can carry."""
        state.near = state.far = ()
        state.near_share = 1.0
        if self.zone is None:
            return
        near = tuple(host for host in state.open if host.zone == self.zone)
        far = tuple(host for host in state.open if host.zone != self.zone)
        if not near or not far:
            return
        living = sum(host.zone == self.zone for host in hosts)
        state.near, state.far = near, far
        state.near_share = min(1.0, len(near) / living * LOCAL_SURPLUS)

    # --- choosing

    def admit(
        self, state: BalanceState, now: float, u: float, point: int | None = None, tried: Collection[str] = ()
    ) -> Pick | Rejection:
        """Choose a host for one request.

        u: a number in [0, 1). point: of the request's key, or None. tried: ids that this call has tried already: they are asked
        again only if there is nobody else, and an ejected one is not asked even then.
        """
        events = self.refresh(state, now) if now >= state.due else ()
        hosts = state.open
        if not hosts:
            return Rejection("knows no instance", None, events)
        if tried:
            hosts = tuple(host for host in hosts if host.id not in tried) or hosts
        elif state.probation:
            for host in state.probation:
                if host.probe is None:
                    return self._send(host, now, events, probes=True)
        if point is not None and self.keyed:
            host = self._by_key(state, hosts, point)
        elif state.far:
            host = self._by_zone(state, hosts, now, u)
        else:
            host = self.chooser.pick(hosts, now, u)
        return self._send(host, now, events, probes=host.status == "probation" and host.probe is None)

    def _send(self, host: Host, now: float, events: Events, *, probes: bool) -> Pick:
        pick = Pick(host, now, probes=probes)
        if probes:
            host.probe = pick
        host.send(pick)
        if events:
            pick.events = events
        return pick

    def _by_key(self, state: BalanceState, hosts: tuple[Host, ...], point: int) -> Host:
        if state.table is None:
            state.table = Table(tuple(state.hosts.values()))
        allowed = set(hosts)
        return next(host for host in state.table.walk(point) if host in allowed)

    def _by_zone(self, state: BalanceState, hosts: tuple[Host, ...], now: float, u: float) -> Host:
        """Somebody near, unless too many of those are gone, or even the best of them is far busier than somebody far."""
        near, far = state.near, state.far
        if hosts is not state.open:
            near = tuple(host for host in near if host in hosts)
            far = tuple(host for host in far if host in hosts)
        if not near or not far:
            return self.chooser.pick(near or far, now, u)
        if u >= state.near_share:
            return self.chooser.pick(far, now, (u - state.near_share) / (1.0 - state.near_share))
        u /= state.near_share
        best = self.chooser.pick(near, now, u)
        if self.spill is None or not self.chooser.compares or not best.pending:
            return best
        other = min(sample(far, 2, u), key=lambda host: self._seen_from_afar(host, best, now))
        spills = self.chooser.load(best, now) > self.spill * self._seen_from_afar(other, best, now)
        return other if spills else best

    def _seen_from_afar(self, host: Host, best: Host, now: float) -> float:
        """The load of a far host. One that is not known is taken to be like the near one without its requests: who looked idle
        by ignorance would draw traffic across zones."""
        if host.cost or not isinstance(self.chooser, PeakEwma):
            return max(self.chooser.load(host, now), host.cost * host.handicap)
        return best.cost * (host.pending + 1) * host.handicap

    # --- learning

    def hear(self, state: BalanceState, now: float, pick: Pick) -> None:
        """The first byte of an answer came: that is its latency, however long the rest of a stream takes."""
        if not pick.heard:
            pick.heard = True
            self.latency.observe(pick.host, now, max(0.0, now - pick.at))

    def settle(self, state: BalanceState, now: float, pick: Pick, told: Told) -> Events:
        """A request is over; a second time says nothing."""
        host = pick.host
        if not host.back(pick):
            return ()
        probed = host.probe is pick
        if probed:
            host.probe = None
        if told is Told.VOID:
            return ()
        rtt = max(0.0, now - pick.at)
        if told is Told.CUT:
            if not pick.heard:
                self.latency.at_least(host, now, rtt)
            return self._probe_again_later(state, now, host) if probed and pick.epoch == host.epoch else ()
        if told is Told.OK:
            if not pick.heard:
                self.latency.observe(host, now, rtt)
            return self._went_well(state, now, pick)
        self.latency.observe(host, now, max(rtt, self.error_cost, self._dearest(state)))
        return () if told is Told.BUSY else self._went_badly(state, now, pick, refused=told is Told.REFUSED)

    def _dearest(self, state: BalanceState) -> float:
        """The highest latency in the set: where answers take seconds, half a second would make a failing host attractive."""
        return max((host.cost for host in state.hosts.values()), default=0.0)

    def _went_well(self, state: BalanceState, now: float, pick: Pick) -> Events:
        host = pick.host
        if pick.epoch != host.epoch:
            return ()
        if (
            host.status != "ready" and self.outliers is not None
        ):  # its probe, or, while everybody is asked, any request sent since it was ejected
            self.outliers.readmit(host, now)
            host.cost, host.stamp = self._usual(state, host), now
            note = Note("balancer.readmitted", {"instance": host.id, "ejections": host.ejections})
            return (note, *self.refresh(state, now))
        host.count(well=True)
        return ()

    def _went_badly(self, state: BalanceState, now: float, pick: Pick, *, refused: bool) -> Events:
        host = pick.host
        if pick.epoch != host.epoch or state.hosts.get(host.id) is not host:
            return ()
        host.count(well=False)
        if self.outliers is None or host.status == "ejected":
            return ()
        if host.status == "probation":
            reason: str | None = "it failed its probe"
        else:
            reason = self.outliers.reason(host, refused=refused)
            others = sum(other.status != "ready" for other in state.hosts.values())
            if others >= self.outliers.room(len(state.hosts)):
                return ()
        if reason is None:
            return ()
        length = self.outliers.eject(host, now)
        note = Note("balancer.ejected", {"instance": host.id, "reason": reason, "for": length, "ejections": host.ejections})
        return (note, *self.refresh(state, now))

    def _probe_again_later(self, state: BalanceState, now: float, host: Host) -> Events:
        """The caller of a probe gave up before the answer: perhaps it hangs, so the next one is not at once another caller's."""
        if self.outliers is None or host.status != "probation":
            return ()
        host.status, host.until = "ejected", now + self.outliers.eject_for
        return self.refresh(state, now)

    def _usual(self, state: BalanceState, host: Host) -> float:
        """The mean latency of its peers, where it is lower than its own; errors are no latency to begin anew with."""
        known = [other.cost for other in state.hosts.values() if other is not host and other.cost]
        return min(host.cost, sum(known) / len(known)) if known else host.cost

    # --- what it says

    def service_fails(self, state: BalanceState, host: Host) -> bool:
        """Whether a failure of this host is the service's: at least half of the instances, and never one of several alone, are
        failing; that is, they are ejected, or most of their last results were bad. One bad answer makes nobody ill."""
        hosts = state.hosts.values()
        failing = 1 + sum(other.ill or other.status != "ready" for other in hosts if other is not host)
        return failing == len(hosts) or (failing >= 2 and 2 * failing >= len(hosts))

    def snapshot(self, state: BalanceState, now: float) -> tuple[HostSnapshot, ...]:
        """All hosts as they are now."""
        found = []
        for host in state.hosts.values():
            faded = host.cost * exp((host.stamp - now) / self.latency.decay)
            left = max(0.0, host.until - now) if host.status == "ejected" else 0.0
            share = 1.0 / (host.handicap * (host.instance.weight or 1.0))
            found.append(
                HostSnapshot(host.instance, host.status, left, faded, host.pending, host.picked, host.success, min(1.0, share))
            )
        return tuple(found)
