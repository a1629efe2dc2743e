"""The balancer under any order of requests, ends, lists and time: what must hold after every step."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.balancing.rules.balance import BalanceRule
from seawall.balancing.rules.ejection import Outliers
from seawall.balancing.rules.host import Pick, Told
from seawall.discovery.instance import Instance
from seawall.policies.verdict import Rejection

PICKERS = ("peak_ewma", "least_outstanding", "round_robin", "weighted", "random", "maglev")
ALL = [Instance("stock", id=f"i{n}", port=1000 + n, zone="ab"[n % 2], weight=(1.0, 2.0, 0.0)[n % 3]) for n in range(7)]


class BalancerMachine(RuleBasedStateMachine):
    """Requests, their ends, lists and time, against what a careful reader would count by hand."""

    @initialize(
        picker=st.sampled_from([*PICKERS, "maglev", "maglev"]),
        zone=st.sampled_from([None, "a"]),
        most=st.sampled_from([0.0, 0.5, 1.0]),
        panic=st.sampled_from([0.0, 0.5]),
        slow=st.sampled_from([0.0, 10.0]),
    )
    def begin(self, picker: str, zone: str | None, most: float, panic: float, slow: float) -> None:
        self.rule = BalanceRule(picker=picker, zone=zone, outliers=Outliers(most=most), panic=panic, slow_start=slow)
        self.now = 0.0
        self.state = self.rule.start(self.now)
        self.out: list[Pick] = []
        self.listed: list[Instance] = []

    @rule(found=st.lists(st.sampled_from(ALL), unique_by=lambda one: one.id), drain=st.booleans())
    def hear_a_list(self, found: list[Instance], drain: bool) -> None:
        self.listed = [one.with_state("draining") if drain and n % 2 else one for n, one in enumerate(found)]
        self.rule.update(self.state, self.now, self.listed)

    @precondition(lambda self: self.listed)
    @rule(number=st.integers(0, 6), heavier=st.booleans())
    def replace_one(self, number: int, heavier: bool) -> None:
        number %= len(self.listed)
        old = self.listed[number]
        new = {"weight": old.weight + 1} if heavier else {"port": old.port + 7}
        self.listed[number] = replace(old, **new)  # type: ignore[arg-type]
        self.rule.update(self.state, self.now, self.listed)

    @rule(
        u=st.floats(0, 1, exclude_max=True),
        tried=st.sets(st.sampled_from([f"i{n}" for n in range(7)]), max_size=3),
        keyed=st.booleans(),
    )
    def ask(self, u: float, tried: set[str], keyed: bool) -> None:
        before = {id: host.status for id, host in self.state.hosts.items() if host.until > self.now or host.status != "ejected"}
        answer = self.rule.admit(self.state, self.now, u, point=int(u * 1e9) if keyed else None, tried=tried)
        if not any(one.state in ("ready", "draining") for one in self.listed):
            assert isinstance(answer, Rejection)
            return
        assert isinstance(answer, Pick)
        self.out.append(answer)
        host = answer.host
        assert self.state.hosts[host.id] is host
        healthy = [id for id, status in before.items() if status == "ready"]
        if not self.state.panicking and healthy:
            assert host.status != "ejected", "an ejected instance was asked"
            if host.status == "probation":
                assert not tried, "a retry became a probe"
                assert host.probe is answer
            elif host.id in tried:
                assert set(healthy) <= tried, "somebody had not been tried yet"
        if any(one.state == "ready" for one in self.listed):
            assert host.instance.state == "ready"

    @precondition(lambda self: self.out)
    @rule(data=st.data(), told=st.sampled_from(list(Told)), heard=st.booleans())
    def end(self, data: st.DataObject, told: Told, heard: bool) -> None:
        pick = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        known = self.state.hosts.get(pick.host.id) is pick.host
        ejected = {id for id, host in self.state.hosts.items() if host.status != "ready"}
        if heard:
            self.rule.hear(self.state, self.now, pick)
        self.rule.settle(self.state, self.now, pick, told)
        fresh = {id for id, host in self.state.hosts.items() if host.status == "ejected"} - ejected
        assert fresh <= ({pick.host.id} if known and told in (Told.BAD, Told.REFUSED) else set())
        if fresh:
            assert len(ejected) < self.rule.outliers.room(len(self.state.hosts))  # type: ignore[union-attr]
        self.rule.settle(self.state, self.now, pick, told)

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 5.0, 30.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "state"):
            return
        for host in (*self.state.hosts.values(), *self.state.gone.values()):
            mine = [pick for pick in self.out if pick.host is host]
            assert host.pending == len(mine) == len(host.out)
            assert host.oldest == min((pick.at for pick in mine), default=math.inf)
            assert host.cost >= 0
            assert math.isfinite(host.cost)
            assert 0 <= host.success <= 1
            assert host.handicap > 0
            assert host.probe is None or host.probe in mine
        assert set(self.state.open) <= set(self.state.hosts.values())
        assert bool(self.state.open) == bool(self.state.hosts)
        if self.state.table is not None:
            assert set(self.state.table.hosts) == set(self.state.hosts.values())


TestBalancer = BalancerMachine.TestCase
TestBalancer.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
