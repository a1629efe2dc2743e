"""Calendar quotas: so many in each hour, day, week or month of some place's calendar, counted anew in the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from seawall.core import units
from seawall.core.units import Limit
from seawall.policies.meter import NANO, NEVER, Meter

Every = Literal["hour", "day", "week", "month", "year"]
LENGTHS: Final[dict[str, float]] = {"hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2592000.0, "year": 31536000.0}
Used = tuple[int, int, int]


@dataclass(frozen=True)
class Quota(Limit):
    """So many calls in each hour, day, week, month or year of the calendar. A `Limit` for `sw.RateLimiter`.

    count: whole number >= 1. every: "hour", "day", "week" (from Monday), "month" or "year". Default "month".
    tz: the place whose calendar counts, as an IANA name. Default "UTC". per: its usual length in seconds, for people.
    At most `count` in one window; at the boundary of two, at most twice as many in any span of that length.
    Raises ValueError or TypeError for a parameter out of range or an unknown place.

    >>> Quota(10_000, every="month", tz="Europe/Berlin").count
    10000
    """

    per: float = field(default=0.0)
    every: Every = "month"
    tz: str = "UTC"

    def __post_init__(self) -> None:
        units.one_of("every", self.every, tuple(LENGTHS))
        object.__setattr__(self, "per", LENGTHS[self.every])
        object.__setattr__(self, "burst", None)
        super().__post_init__()
        _zone(self.tz)

    def bounds(self, now: float) -> tuple[int, int, int, int]:
        """The bounds of the windows before, around and after `now` (seconds since 1970), in nanoseconds since 1970."""
        zone = _zone(self.tz)
        begin = _floor(datetime.fromtimestamp(now, zone), self.every)
        moments = (_step(begin, self.every, -1), begin, _step(begin, self.every, 1), _step(begin, self.every, 2))
        before, start, end, after = (round(moment.astimezone(UTC).timestamp()) * NANO for moment in moments)
        return before, start, end, after

    def __str__(self) -> str:
        return f"{self.count} each {self.every} ({self.tz})"


class CalendarWindow(Meter[Used]):
    """A quota's windows around now. Its value is (window's begin, used, held until), in nanoseconds since 1970."""

    __slots__ = ("bounds", "capacity", "limit", "room")

    def __init__(self, limit: Quota, bounds: tuple[int, int, int, int]) -> None:
        self.limit = limit
        self.capacity = self.room = limit.count
        self.bounds = bounds

    def blank(self, at: int) -> Used:
        """Nothing used."""
        return self._window(at)[0], 0, 0

    def wait(self, value: Used, at: int, cost: int) -> int:
        """Until the window has room, or the next one begins."""
        if cost > self.capacity:
            return NEVER
        moment = max(at, value[2])
        if self._current(value, moment)[1] + cost > self.capacity:
            moment = self._window(moment)[1]
        return moment - at if cost else 0

    def spend(self, value: Used, at: int, cost: int) -> Used:
        """Used in the window of now."""
        begin, used, held = self._current(value, at)
        return begin, used + cost, held

    def refund(self, value: Used, at: int, amount: int, since: int) -> Used:
        """Back into the window it was used in, if that one still counts."""
        begin, used, held = self._current(value, at)
        return (begin, max(0, used - amount), held) if since >= begin else (begin, used, held)

    def remaining(self, value: Used, at: int) -> int:
        """What the window of now has left."""
        return 0 if value[2] > at else max(0, self.capacity - self._current(value, at)[1])

    def reset_after(self, value: Used, at: int) -> int:
        """Until the end of the window, when anything was used in it."""
        used = self._current(value, at)[1]
        return max(self._window(at)[1] if used else at, value[2]) - at

    def hold(self, value: Used, at: int, until: int) -> Used:
        """Nothing passes before `until`."""
        return value[0], value[1], max(value[2], until)

    def carry(self, value: Used, at: int, old: Any) -> Used:
        """What was used stays used."""
        return value

    def _window(self, at: int) -> tuple[int, int]:
        before, start, end, after = self.bounds
        if at < start:
            return before, start
        return (start, end) if at < end else (end, after)

    def _current(self, value: Used, at: int) -> Used:
        begin = self._window(at)[0]
        return value if begin <= value[0] else (begin, 0, value[2])


@lru_cache(maxsize=64)
def _zone(name: object) -> ZoneInfo:
    if not isinstance(name, str):
        raise TypeError(f'tz must be the IANA name of a place, such as "Europe/Berlin"; got {name!r}')
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f'tz must be the IANA name of a place, such as "Europe/Berlin"; got {name!r}') from error


def _floor(moment: datetime, every: str) -> datetime:
    if every == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if every == "week":
        return day - timedelta(days=day.weekday())
    if every == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if every == "year" else day


def _step(begin: datetime, every: str, by: int) -> datetime:
    if every == "hour":  # hours are counted in real time, through a change of the clocks
        return (begin.astimezone(UTC) + timedelta(hours=by)).astimezone(begin.tzinfo)
    if every in ("day", "week"):
        return begin + timedelta(days=by * (7 if every == "week" else 1))
    months = begin.year * 12 + begin.month - 1 + by * (12 if every == "year" else 1)
    return begin.replace(year=months // 12, month=months % 12 + 1)
