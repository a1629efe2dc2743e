"""Envoy's access log, read as it grows: each request becomes an event, and the file is put away before it is too large."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from seawall.gateway.admin import Admin

FIELDS: Final = {
    "route": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "took_ms": "%DURATION%",
    "upstream": "%UPSTREAM_HOST%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
}
"""What Envoy writes of each request, beside the name of the listener."""
LOOKS: Final = 0.25
FLAGS: Final = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Envoy's short names of what its gRPC log spells out (Envoy docs, "Access logging", RESPONSE_FLAGS)."""
CHUNK: Final = 64 * 1024
LONGEST_LINE: Final = 64 * 1024
MOST_BEHIND: Final = 4 * 1024 * 1024
"""Bytes that may wait to be read; what is more is not told one by one."""
DRAINS: Final = 4
"""How many times its size limit the file can reach when nobody puts it away: Envoy may write no file beyond that."""


class AccessLog:
    """Tells the requests of one file. tell: emits an event of the gateway. size_bytes: at which the file is put away, as
    `access.log.1`, in the place of the one before."""

    def __init__(self, path: Path, tell: Callable[..., None], size_bytes: int) -> None:
        self.path = path
        self._tell = tell
        self._size = size_bytes
        self._file: BinaryIO | None = None
        self._rest = b""
        self._begin()

    def _begin(self) -> None:
        """What an earlier gateway left is not told again."""
        with suppress(OSError):
            if self.path.stat().st_size >= self._size:
                os.replace(self.path, self._old)
                return
            self._file = self.path.open("rb")
            self._file.seek(0, os.SEEK_END)

    @property
    def _old(self) -> Path:
        return self.path.with_name(f"{self.path.name}.1")

    async def follow(self, admin: Callable[[], Admin]) -> None:
        """Read it until cancelled. admin: gives the admin port of the Envoy that runs now."""
        while True:
            with suppress(OSError, TimeoutError, RuntimeError):
                await self.look()
                await self._put_away(admin)
            await asyncio.sleep(LOOKS)

    async def look(self) -> None:
        """Tell what is new, and go over to the next file once this one is read to its end. Raises OSError."""
        over = self._is_over()
        self._skip()
        while self._file is not None:
            found = self._file.read(CHUNK)
            if found:
                self._take(found)
            elif not over:
                return
            else:
                self.close()
                over = self._is_over()
            await asyncio.sleep(0)

    def close(self) -> None:
        """Let go of the file. Harmless when done twice."""
        file, self._file, self._rest = self._file, None, b""
        if file is not None:
            file.close()

    def _is_over(self) -> bool:
        """Whether Envoy writes another file by now; the first one is opened here."""
        try:
            now = self.path.stat()
            if self._file is None:
                self._file = self.path.open("rb")
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file.fileno())
        return (mine.st_dev, mine.st_ino) != (now.st_dev, now.st_ino)

    def _skip(self) -> None:
        if self._file is None:
            return
        behind = os.fstat(self._file.fileno()).st_size - self._file.tell()
        if behind > MOST_BEHIND:
            self._file.seek(-CHUNK, os.SEEK_END)
            self._rest = b""
            self._file.readline(CHUNK)
            self._tell("gateway.requests_skipped", bytes=behind - CHUNK)

    def _take(self, found: bytes) -> None:
        *lines, self._rest = (self._rest + found).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            told = read(line)
            if told is not None:
                self._tell("gateway.request", **told)

    async def _put_away(self, admin: Callable[[], Admin]) -> None:
        try:
            if self.path.stat().st_size < self._size:
                return
            os.replace(self.path, self._old)
        except FileNotFoundError:
            if self._file is None:
                return
        await admin().ask("/reopen_logs", "POST")


def read(line: bytes) -> dict[str, Any] | None:
    """One line as the details of an event; None for one that is not whole."""
    try:
        found = json.loads(line)
        attempts = found.get("attempts") or 1
        return {
            "took": float(found.get("took_ms") or 0) / 1000,
            "listener": found.get("listener") or "",
            "route": found.get("route") or "",
            "method": found.get("method") or "",
            "status": int(found.get("status") or 0),
            "flags": tuple(each for each in str(found.get("flags") or "-").split(",") if each != "-"),
            "service": str(found.get("cluster") or "").partition("|")[0],
            "upstream": found.get("upstream") or "",
            "retries": max(0, int(attempts) - 1),
        }
    except (ValueError, TypeError, AttributeError):
        return None


def entry(logged: Any) -> dict[str, Any]:
    """The same of one entry of Envoy's gRPC log (`envoy.data.accesslog.v3.HTTPAccessLogEntry`)."""
    common = logged.common_properties
    place = common.upstream_remote_address.socket_address
    method = logged.request.DESCRIPTOR.fields_by_name["request_method"].enum_type.values_by_number[logged.request.request_method]
    took = common.duration if common.HasField("duration") else common.time_to_last_downstream_tx_byte
    return {
        "took": took.seconds + took.nanos / 1e9,
        "route": common.route_name,
        "method": method.name if logged.request.request_method else "",
        "status": logged.response.response_code.value,
        "flags": tuple(FLAGS.get(field.name, field.name) for field, value in common.response_flags.ListFields() if value),
        "service": common.upstream_cluster.partition("|")[0],
        "upstream": f"{place.address}:{place.port_value}" if place.address else "",
        "retries": max(0, common.upstream_request_attempt_count - 1),
    }
