"""What Envoy counts, as events of ours: once a second what is new of each kind is told, by service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from seawall.gateway.admin import Admin

KINDS: Final = {
    "upstream_rq_retry": "retried",
    "upstream_rq_retry_overflow": "budget_spent",
    "upstream_rq_timeout": "timed_out",
    "upstream_rq_per_try_timeout": "attempt_timed_out",
    "upstream_rq_pending_overflow": "overflowed",
    "upstream_cx_none_healthy": "nobody_ready",
    "outlier_detection.ejections_enforced_total": "ejected",
    "ratelimit.over_limit": "limited",
    "http_local_rate_limit.rate_limited": "limited",
}
"""What the last part of a counter's name means."""
_NAME: Final = re.compile(rf"^(?:cluster\.(?P<service>.+)\.|.*?\.?)(?P<what>{'|'.join(map(re.escape, KINDS))})$")
FILTER: Final = "|".join(f"{part.rsplit('.', 1)[-1]}$" for part in KINDS)


def read(stats: Mapping[str, int]) -> dict[tuple[str, str], int]:
    """Totals by service and kind; what belongs to no service stands under ""."""
    found: dict[tuple[str, str], int] = {}
    for name, value in stats.items():
        match = _NAME.match(name)
        if match is not None:
            place = match["service"] or "", KINDS[match["what"]]
            found[place] = found.get(place, 0) + value
    return found


def by_service(totals: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """The same for people: what is 0 is left out."""
    told: dict[str, dict[str, int]] = {}
    for (service, kind), total in sorted(totals.items()):
        if total:
            told.setdefault(service or "(no service)", {})[kind] = total
    return told


class Counters:
    """Tells what is new. tell: emits an event of the gateway."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._before: dict[tuple[str, str], int] = {}

    async def look(self, admin: Admin) -> None:
        """Ask Envoy once. Raises OSError or TimeoutError when it does not answer."""
        self.compare(read(await admin.stats(FILTER)))

    def compare(self, now: Mapping[tuple[str, str], int]) -> None:
        """Tell what has been added; an Envoy that was started again counts from 0."""
        for service, kind, more, total in list(self._news(now)):
            self._tell(f"gateway.{kind}", service=service, count=more, total=total)
        self._before = dict(now)

    def _news(self, now: Mapping[tuple[str, str], int]) -> Iterable[tuple[str, str, int, Any]]:
        for (service, kind), total in now.items():
            before = self._before.get((service, kind), 0)
            more = total - before if total >= before else total
            if more:
                yield service, kind, more, total
