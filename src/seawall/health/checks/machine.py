"""Checks of the machine that we run on: disk, memory, and how late the event loop is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seawall.core import units
from seawall.health.checks.probe import Probe
from seawall.health.standing import Finding, Status

if TYPE_CHECKING:
    from seawall.health.health import Health


def disk(path: str | os.PathLike[str] = "/", *, warn_below: float = 0.1, fail_below: float = 0.02) -> Probe:
    """Free space of the file system that holds `path`, as a share in [0, 1] of what an ordinary user may use.

    warn_below: share of free space below which it warns. Default 0.1. fail_below: below which it fails, <= warn_below. Default
        0.02.
    Raises ValueError for shares out of range or order.
    """
    warn, fail = _shares(warn_below, fail_below)

    def look() -> Finding:
        usage = shutil.disk_usage(path)
        return _low("free disk", usage.free / (usage.used + usage.free), warn, fail)

    return Probe(look, kind="system")


def memory(*, warn_above: float = 0.9, fail_above: float | None = None, root: str | os.PathLike[str] = "/") -> Probe:
    """Used memory, as a share of this container's limit (cgroup v2, then v1, page cache left out), or of the machine's.

    warn_above: share in (0, 1] above which it warns. Default 0.9. fail_above: above which it fails, >= warn_above; default None
        = never, because leaving the traffic frees no memory and puts the load on others. root: of the file system, for tests.
    Not critical by default. Linux only: elsewhere it warns that it cannot measure. Raises ValueError for shares out of range
    or order.
    """
    fail = units.ratio("fail_above", fail_above) if fail_above is not None else 2.0
    warn = units.ratio("warn_above", warn_above)
    if fail < warn:
        raise ValueError(f"fail_above must be at least warn_above, {warn:g}; got {fail_above!r}")

    def look() -> Finding:
        used = memory_share(Path(root))
        if used is None:
            return Finding(Status.WARN, "memory cannot be measured on this platform")
        return _high("used memory", used, "ratio", warn, fail)

    return Probe(look, kind="system", critical=False)


def loop_lag(health: Health, *, warn_above: float = 0.1, fail_above: float | None = None) -> Probe:
    """How late the event loop of `health` was at worst in the last ten seconds.

    warn_above: seconds above which it warns, > 0. Default 0.1. fail_above: above which it fails; default None = never.
    Not critical by default. Raises ValueError for lengths out of range.
    """
    warn = units.seconds("warn_above", warn_above)
    fail = float("inf") if fail_above is None else units.seconds("fail_above", fail_above, above=warn)

    def look() -> Finding:
        return _high("event loop lag", health.pulse.worst(health.clock.monotonic()), "s", warn, fail)

    return Probe(look, kind="system", critical=False)


def memory_share(root: Path) -> float | None:
    """Used memory as a share of the nearest limit, or None where it cannot be read."""
    for limit, used, cache in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
            "sys/fs/cgroup/memory/memory.stat",
        ),
    ):
        most, taken = _number(root / limit), _number(root / used)
        if most is not None and taken is not None and most < 1 << 60:  # v1 writes a huge number for "no limit", v2 the word max
            fields = _fields(root / cache)
            idle = fields.get("total_inactive_file", fields.get("inactive_file", 0))
            return max(0, taken - idle) / most
    fields = _fields(root / "proc/meminfo")
    if "MemTotal:" not in fields or "MemAvailable:" not in fields:
        return None
    return 1 - fields["MemAvailable:"] / fields["MemTotal:"]


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None


def _fields(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _low(what: str, share: float, warn: float, fail: float) -> Finding:
    status = Status.FAIL if share < fail else Status.WARN if share < warn else Status.PASS
    return Finding(status, f"{what} is {share:.1%}" if status is not Status.PASS else None, round(share, 4), "ratio")


def _high(what: str, value: float, unit: str, warn: float, fail: float) -> Finding:
    status = Status.FAIL if value > fail else Status.WARN if value > warn else Status.PASS
    shown = f"{value:.1%}" if unit == "ratio" else f"{value:.3g} {unit}"
    return Finding(status, f"{what} is {shown}" if status is not Status.PASS else None, round(value, 4), unit)


def _shares(warn: Any, fail: Any) -> tuple[float, float]:
    shares = units.ratio("warn_below", warn, zero=True), units.ratio("fail_below", fail, zero=True)
    if shares[1] > shares[0]:
        raise ValueError(f"fail_below must be at most warn_below, {warn:g}; got {fail!r}")
    return shares
