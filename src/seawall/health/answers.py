"""What the groups say, computed from what the checks left in memory. Reads only, so that any thread may ask."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from seawall.health.check import Check, Group
from seawall.health.report import CheckReport, Report
from seawall.health.standing import Status, worst

if TYPE_CHECKING:
    from seawall.health.health import Health

_logger = logging.getLogger("seawall.health")


class Answers:
    """The reading side of one Health."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._fate_broken = False

    def report(self, group: Group) -> Report:
        """What one group says now."""
        if group == "live":
            return self._live()
        return self._startup() if group == "startup" else self._ready()

    def failing(self) -> frozenset[str]:
        """The critical ready checks that fail."""
        now = self._health.clock.monotonic()
        checks = self._health.checks("ready")
        return frozenset(c.name for c in checks if c.critical and c.rule.status(c.standing, now) is Status.FAIL)

    # --- the groups

    def _live(self) -> Report:
        health = self._health
        now = health.clock.monotonic()
        lag = health.pulse.lag(now)
        late = lag > health.max_lag
        status = Status.FAIL if late else Status.PASS
        reason = f"the event loop has not run for {lag:.3g} s" if late else None
        loop = CheckReport("event-loop:lag", status, critical=True, value=round(lag, 4), unit="s", kind="system")
        return Report("live", status, reason, (loop,), health.name, health.version)

    def _startup(self) -> Report:
        health = self._health
        checks = health.checks("startup")
        missing = [check.name for check in checks if check.critical and not check.passed_once]
        now = health.clock.monotonic()
        told = tuple(self._told(check, self._once(check, now), now) for check in checks)
        status = Status.FAIL if missing else worst(_weighed(report) for report in told)
        reason = f"not started: {', '.join(missing)}" if missing else None
        return Report("startup", status, reason, told, health.name, health.version)

    def _ready(self) -> Report:
        health = self._health
        now = health.clock.monotonic()
        checks = health.checks("ready")
        told = tuple(self._ready_check(check, now) for check in checks)
        status = worst(_weighed(report) for report in told)
        reason = _reason(told, status)
        starting = any(check.critical and not check.passed_once for check in health.checks("startup"))
        if starting:
            status, reason = Status.FAIL, "starting"
        if health.draining:
            status, reason = Status.FAIL, "draining"
        return Report("ready", status, reason, told, health.name, health.version)

    # --- one check

    def _ready_check(self, check: Check, now: float) -> CheckReport:
        status = check.rule.status(check.standing, now)
        why = self._stays(check) if check.critical and status is Status.FAIL else None
        return self._told(check, status, now, tolerated=why is not None)

    def _once(self, check: Check, now: float) -> Status:
        return Status.PASS if check.passed_once else check.rule.status(check.standing, now)

    def _told(self, check: Check, status: Status, now: float, *, tolerated: bool = False) -> CheckReport:
        standing = check.standing
        age = None if standing.at is None else now - standing.at
        output = standing.last.output
        if status is Status.UNKNOWN or (age is not None and age > check.rule.lasts):
            output = "no result yet" if age is None else f"the last result is {age:.3g} s old"
        last = standing.last
        return CheckReport(
            check.name, status, check.critical, age, check.wall, output, last.value, last.unit, check.kind, tolerated
        )

    def _stays(self, check: Check) -> str | None:
        fate = self._health.fate
        if fate is None:
            return None
        try:
            why = fate.stays(check.name)
        except Exception:
            if not self._fate_broken:
                self._fate_broken = True
                _logger.exception("peers of the shared-fate rule failed; they count as unknown, and this instance stays ready")
            return "the peers are not known"
        self._fate_broken = False
        return why


def _weighed(report: CheckReport) -> Status:
    """What one check means for its group."""
    if report.status is Status.UNKNOWN:
        pending = report.age is None
        return Status.FAIL if pending and report.critical else Status.WARN
    if report.status is Status.FAIL:
        return Status.FAIL if report.critical and not report.tolerated else Status.WARN
    return report.status


def _reason(told: tuple[CheckReport, ...], status: Status) -> str | None:
    if status is Status.PASS:
        return None
    return ", ".join(f"{report.name}: {report.status}" for report in told if report.status is not Status.PASS)
