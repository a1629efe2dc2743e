"""What a group says: a frozen answer, made from memory, and its body as application/health+json
(draft-inadarei-api-health-check-06).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from seawall.health.check import Group
from seawall.health.standing import Status

MEDIA_TYPE: Final = "application/health+json"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One check as it stands. age: seconds since its last result, None before the first. at: the time of day of that result.

    tolerated: it fails, and the shared-fate rule keeps the instance ready all the same.
    """

    name: str
    status: Status
    critical: bool
    age: float | None = None
    at: float | None = None
    output: str | None = None
    value: float | str | None = None
    unit: str | None = None
    kind: str | None = None
    tolerated: bool = False

    def as_json(self, *, detail: bool) -> dict[str, Any]:
        """As one entry of "checks"."""
        entry: dict[str, Any] = {"status": _spoken(self.status), "critical": self.critical}
        if self.kind is not None:
            entry["componentType"] = self.kind
        if self.value is not None:
            entry["observedValue"] = self.value
        if self.unit is not None:
            entry["observedUnit"] = self.unit
        if self.at is not None:
            entry["time"] = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if detail and self.output is not None and self.status is not Status.PASS:
            entry["output"] = self.output
        if self.tolerated:
            entry["tolerated"] = True
        return entry


@dataclass(frozen=True, slots=True)
class Report:
    """What one group says. status: pass and warn are answered with 200, fail with 503. reason: why, when it is not "pass"."""

    group: Group
    status: Status
    reason: str | None
    checks: tuple[CheckReport, ...]
    service: str
    version: str | None = None

    @property
    def http_status(self) -> int:
        """200 when the instance should get traffic (or live on), else 503."""
        return 503 if self.status in (Status.FAIL, Status.UNKNOWN) else 200

    def body(self, *, detail: bool = True) -> bytes:
        """As application/health+json. detail: whether the outputs of checks are shown."""
        answer: dict[str, Any] = {"status": _spoken(self.status), "serviceId": self.service}
        if self.version is not None:
            answer["version"] = self.version
        if self.reason is not None:
            answer["output"] = self.reason
        if self.checks:
            answer["checks"] = {check.name: [check.as_json(detail=detail)] for check in self.checks}
        return json.dumps(answer, separators=(",", ":")).encode()

    def headers(self, body: bytes) -> list[tuple[str, str]]:
        """Of the answer: never to be kept by a cache."""
        return [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("cache-control", "no-store")]


def _spoken(status: Status) -> str:
    """The format knows pass, warn and fail; what is unknown is no pass."""
    return "fail" if status is Status.UNKNOWN else str(status)
