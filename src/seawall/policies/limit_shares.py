"""Who may use how much of one limit: partitions have a share of it by name, tenants a fair share by being there.

A partition's share is its own whenever it wants it; what it leaves idle is lent to the others, and comes back as their calls end.
Tenants that hold something, wait, or were turned away within the last second share the limit evenly. Of those who wait, the one
that holds least is served first. Where nobody waits, free places are left to tenants that hold less and were turned away: as many
as they missed, up to their fair share.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

from seawall.core import units

REMEMBERED: Final = 1.0  # seconds for which a tenant that was turned away counts as wanting
OTHERS: Final = "others"
CROWD: Final = object()  # stands for all tenants beyond the most that are told apart


class Account:
    """What one partition or tenant holds.

    missed: calls of it that were turned away and have not come back. wants_until: until when it counts as wanting because of
    them. listed: whether it stands in the line of those who were turned away.
    """

    __slots__ = ("key", "listed", "missed", "share", "taken", "waiting", "wants_until")

    def __init__(self, key: Hashable, share: float = 0.0) -> None:
        self.key = key
        self.share = share
        self.taken = 0
        self.waiting = 0
        self.missed = 0
        self.wants_until = -math.inf
        self.listed = False


class Accounts:
    """The accounts of one limit: partitions for life, tenants while they hold or want something."""

    __slots__ = ("partitions", "tenants", "turned_away", "wanting")

    def __init__(self, partitions: Mapping[str, float]) -> None:
        self.partitions = {name: Account(name, share) for name, share in partitions.items()}
        self.tenants: dict[Hashable, Account] = {}
        self.wanting: dict[Hashable, Account] = {}
        self.turned_away: deque[tuple[float, Account]] = deque()


@dataclass(frozen=True, slots=True)
class Claim:
    """Under which accounts one call stands; None = that kind of account is not kept."""

    partition: Account | None
    tenant: Account | None


@dataclass(frozen=True, kw_only=True)
class ShareRule:
    """Shares by name, and whether tenants are told apart. Units, ranges and defaults: see `seawall.AdaptiveLimit`."""

    partitions: Mapping[str, float] = field(default_factory=dict)
    fair: bool = False
    max_tenants: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.partitions, Mapping):
            raise TypeError(f"partitions must be a table from names to shares; got {self.partitions!r}")
        for name, share in self.partitions.items():
            if not isinstance(name, str) or not name or name == OTHERS:
                raise ValueError(f"partitions must have names that are not empty and not {OTHERS!r}; got {name!r}")
            units.ratio(f"partitions[{name!r}]", share)
        if sum(self.partitions.values()) > 1 + 1e-9:
            raise ValueError(f"partitions must add up to at most 1; got {sum(self.partitions.values()):g}")
        units.whole("max_tenants", self.max_tenants)

    @property
    def used(self) -> bool:
        """Whether any shares are kept."""
        return bool(self.partitions) or self.fair

    def start(self) -> Accounts:
        """Nobody holds anything. Calls of no known partition share what the names leave over."""
        if not self.partitions:
            return Accounts({})
        return Accounts({**self.partitions, OTHERS: max(0.0, 1 - sum(self.partitions.values()))})

    def retune(self, accounts: Accounts) -> None:
        """Put this rule's shares in the place of those that `accounts` was kept under; who runs is counted on under its name."""
        fresh = self.start().partitions
        for name, account in fresh.items():
            known = accounts.partitions.get(name)
            if known is not None:
                known.share = account.share
                fresh[name] = known
        accounts.partitions = fresh

    def claim(self, accounts: Accounts, now: float, partition: Hashable, tenant: Hashable) -> Claim:
        """The accounts of one call."""
        account = None
        if accounts.partitions:
            account = accounts.partitions.get(partition) or accounts.partitions[OTHERS]  # type: ignore[call-overload]
        if not self.fair:
            return Claim(account, None)
        self._forget(accounts, now)
        known = accounts.tenants.get(tenant)
        if known is None:
            key = tenant if len(accounts.tenants) < self.max_tenants else CROWD
            known = accounts.tenants.get(key) or Account(key)
        return Claim(account, known)

    def owns(self, claim: Claim, limit: float) -> bool:
        """Whether the partition is below its own share of `limit`."""
        account = claim.partition
        return account is not None and account.share > 0 and account.taken < max(1, int(limit * account.share + 1e-9))

    def withheld(self, accounts: Accounts, now: float, claim: Claim, limit: float, free: int) -> bool:
        """Whether a tenant must leave the `free` places to others that hold less and were turned away."""
        mine = claim.tenant
        if mine is None or mine.taken == 0:
            return False
        fair = fair_share(accounts, limit)
        for other in accounts.wanting.values():
            if other.taken < mine.taken and other.wants_until > now:
                free -= max(0, min(other.missed, fair - other.taken))
                if free <= 0:
                    return True
        return False

    # --- what changes

    def take(self, accounts: Accounts, claim: Claim) -> None:
        """A call begins, or is granted its place."""
        if claim.partition is not None:
            claim.partition.taken += 1
        if claim.tenant is not None:
            claim.tenant.taken += 1
            claim.tenant.missed = max(0, claim.tenant.missed - 1)
            if not claim.tenant.missed:
                claim.tenant.wants_until = -math.inf
            self._sort(accounts, claim.tenant)

    def give(self, accounts: Accounts, claim: Claim) -> None:
        """A call ends."""
        if claim.partition is not None:
            claim.partition.taken -= 1
        if claim.tenant is not None:
            claim.tenant.taken -= 1
            self._sort(accounts, claim.tenant)

    def wait(self, accounts: Accounts, claim: Claim, more: int) -> None:
        """One call more, or one less, stands in the queue."""
        if claim.tenant is not None:
            claim.tenant.waiting += more
            self._sort(accounts, claim.tenant)

    def turn_away(self, accounts: Accounts, now: float, claim: Claim, limit: float) -> None:
        """A call was refused: a tenant below its fair share counts as wanting for a second."""
        tenant = claim.tenant
        if tenant is None or tenant.taken >= fair_share(accounts, limit, newcomer=tenant.key not in accounts.tenants):
            return
        tenant.missed += 1
        tenant.wants_until = now + REMEMBERED
        if not tenant.listed:
            tenant.listed = True
            accounts.turned_away.append((tenant.wants_until, tenant))
        self._sort(accounts, tenant)

    def _forget(self, accounts: Accounts, now: float) -> None:
        """Tenants that were turned away a second ago want nothing any more. Each stands in the line once at most."""
        line = accounts.turned_away
        while line and line[0][0] <= now:
            _, tenant = line.popleft()
            if tenant.wants_until > now:
                line.append((tenant.wants_until, tenant))
                continue
            tenant.listed, tenant.missed = False, 0
            tenant.wants_until = -math.inf
            self._sort(accounts, tenant)

    def _sort(self, accounts: Accounts, tenant: Account) -> None:
        """Put a tenant where it belongs: among those who want, among those who are there, or nowhere."""
        wants = tenant.waiting > 0 or tenant.wants_until > -math.inf
        for table, belongs in ((accounts.wanting, wants), (accounts.tenants, wants or tenant.taken > 0)):
            if belongs:
                table[tenant.key] = tenant
            else:
                table.pop(tenant.key, None)


def fair_share(accounts: Accounts, limit: float, *, newcomer: bool = False) -> int:
    """What one tenant may hold while others want something: the limit over those who are there, rounded up."""
    return math.ceil(max(1, int(limit)) / max(1, len(accounts.tenants) + newcomer))
