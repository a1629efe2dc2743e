"""Partitions and tenants of a limit: what must hold after every step, whoever came, waited, gave up or ended."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.core.outcome import Outcome
from seawall.policies.adaptive_limit import AdaptiveLimitRule, Slot, Waiter
from seawall.policies.limit_shares import OTHERS, ShareRule
from seawall.policies.verdict import Rejection

MOST = 12
PARTS = {"batch": 0.25, "live": 0.5}


class SharesMachine(RuleBasedStateMachine):
    """Arrivals of all partitions, tenants and priorities, ends, cancellations, time and moves of the limit. CoDel is off."""

    @initialize(limit=st.integers(1, 8), queue=st.integers(0, 6), parts=st.booleans(), fair=st.booleans(), most=st.integers(1, 4))
    def begin(self, limit: int, queue: int, parts: bool, fair: bool, most: int) -> None:
        shares = ShareRule(partitions=PARTS if parts else {}, fair=fair, max_tenants=most)
        self.rule = AdaptiveLimitRule(initial=limit, most=MOST, queue=queue, target=1e9, shares=shares)
        self.state = self.rule.start(0.0)
        self.now = 0.0
        self.running: list[tuple[str, str, Slot]] = []
        self.waiting: list[tuple[str, str, Waiter]] = []

    def part(self, name: str) -> str:
        return name if name in PARTS else OTHERS

    def own(self, name: str, factor: float) -> int:
        """The places that belong to a partition."""
        share = {**PARTS, OTHERS: 0.25}[self.part(name)]
        return max(1, int(self.state.limit * factor * share + 1e-9))

    @rule(
        part=st.sampled_from(["batch", "live", "typo"]),
        tenant=st.sampled_from(["a", "b", "c", "d", "e", "f"]),
        level=st.sampled_from(["critical", "default", "sheddable"]),
        patience=st.sampled_from([1.0, math.inf]),
    )
    def arrive(self, part: str, tenant: str, level: str, patience: float) -> None:
        factor = {"critical": 1.1, "default": 1.0, "sheddable": 0.7}[level]
        room = max(1, min(MOST, int(self.state.limit * factor + 1e-9))) - self.state.taken
        held = sum(self.part(one) == self.part(part) for one, _, _ in [*self.running, *self.granted()])
        owns = bool(self.rule.shares.partitions) and held < self.own(part, factor) and self.state.taken < MOST
        alone = all(other == tenant for _, other, _ in [*self.running, *self.waiting])
        lately = bool(self.state.accounts.turned_away)
        answer = self.rule.admit(self.state, self.now, self.now + patience, level, part, tenant)
        if owns:
            assert isinstance(answer, Slot)
        if room <= 0 and not owns:
            assert not isinstance(answer, Slot)
        if room > 0 and (not self.rule.shares.fair or (alone and not lately)) and not self.waiting:
            assert isinstance(answer, Slot)
        if isinstance(answer, Slot):
            self.running.append((part, tenant, answer))
        elif isinstance(answer, Waiter):
            assert self.rule.queue > 0
            self.waiting.append((part, tenant, answer))
        self.drop_shed()

    def granted(self) -> list[tuple[str, str, Waiter]]:
        return [item for item in self.waiting if item[2].permit is not None]

    def drop_shed(self) -> None:
        for item in [item for item in self.waiting if item[2].shed is not None]:
            assert isinstance(self.rule.poll(self.state, self.now, item[2]), Rejection)
            self.waiting.remove(item)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), twice=st.booleans())
    def end(self, data: st.DataObject, twice: bool) -> None:
        _, _, slot = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        for _ in range(1 + twice):
            self.rule.settle(self.state, self.now, slot, Outcome.IGNORED, 0.0)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        part, tenant, ticket = item = data.draw(st.sampled_from(self.waiting))
        answer = self.rule.poll(self.state, self.now, ticket)
        if isinstance(answer, float):
            assert answer == ticket.until - self.now
            return
        self.waiting.remove(item)
        if isinstance(answer, Slot):
            self.running.append((part, tenant, answer))
        else:
            assert self.now >= ticket.until

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        self.rule.leave(self.state, self.now, item[2])
        self.waiting.remove(item)

    @rule(limit=st.integers(1, MOST))
    def move(self, limit: int) -> None:
        self.state.limit = float(limit)
        self.rule.match(self.state, self.now)

    @rule(seconds=st.sampled_from([0.25, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "state"):
            return
        seated = [(part, tenant) for part, tenant, _ in [*self.running, *self.granted()]]
        queued = [item for item in self.waiting if item[2].permit is None]
        assert self.state.taken == len(seated) <= MOST
        assert self.state.waiting == len(queued) <= max(0, self.rule.queue)
        accounts = self.state.accounts
        for name, account in accounts.partitions.items():
            assert account.taken == sum(self.part(part) == name for part, _ in seated)
        if not self.rule.shares.fair:
            assert not accounts.tenants
            return
        assert len(accounts.tenants) <= self.rule.shares.max_tenants + 1
        assert sum(account.taken for account in accounts.tenants.values()) == len(seated)
        assert sum(account.waiting for account in accounts.tenants.values()) == len(queued)
        assert len(accounts.turned_away) <= self.rule.shares.max_tenants + 1
        assert all(one.taken or one.waiting or one.missed for one in accounts.tenants.values())

    @invariant()
    def nobody_waits_while_there_is_room_for_him(self) -> None:
        if not hasattr(self, "state"):
            return
        factors = [1.1, 1.0, 0.7]
        for part, _, ticket in self.waiting:
            if ticket.permit is None:
                factor = factors[ticket.level]
                assert max(1, min(MOST, int(self.state.limit * factor + 1e-9))) <= self.state.taken
                if self.rule.shares.partitions and self.state.taken < MOST:
                    assert self.state.accounts.partitions[self.part(part)].taken >= self.own(part, factor)


SharesMachine.TestCase.settings = settings(max_examples=250, stateful_step_count=60, deadline=None)


class TestShares(SharesMachine.TestCase):  # type: ignore[name-defined,misc]
    """No place is lost, invented or kept from who owns it, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
