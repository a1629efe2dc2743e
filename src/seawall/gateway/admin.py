"""Envoy's admin port on the loopback interface: is it ready, what does it count, which configuration did it reject."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

MOST_BYTES: Final = 32 * 1024 * 1024
PATIENCE: Final = 5.0


class Admin:
    """Asks one Envoy. port: of its admin listener on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body. Raises OSError or TimeoutError when it does not answer."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=MOST_BYTES)
            try:
                writer.write(
                    f"{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
                )
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                chunked = "transfer-encoding: chunked" in head.lower()
                body = await _chunks(reader) if chunked else await reader.read(MOST_BYTES)
            except asyncio.IncompleteReadError as error:
                raise ConnectionError(f"the admin port {self.port} closed while it answered") from error
            finally:
                writer.close()
        return int(head.split(" ", 2)[1]), body.decode("utf-8", "replace")

    async def ready(self) -> bool:
        """Whether Envoy takes traffic: its first configuration is in place."""
        try:
            return (await self.ask("/ready"))[0] == 200
        except (OSError, TimeoutError):
            return False

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match a regular expression."""
        body = (await self.ask(f"/stats?filter={pattern}&format=json"))[1]
        return {each["name"]: each["value"] for each in json.loads(body)["stats"] if isinstance(each.get("value"), int)}

    async def rejections(self) -> int:
        """How many configurations it refused since it began."""
        found = await self.stats("update_rejected|update_failure")
        return sum(value for name, value in found.items() if name.endswith(("update_rejected", "update_failure")))

    async def complaints(self) -> list[str]:
        """What is wrong with the configuration that it refused last, in its own words."""
        body = (await self.ask("/config_dump?include_eds"))[1]
        return list(dict.fromkeys(_details(json.loads(body))))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
        if len(body) > MOST_BYTES:
            raise OSError(f"the admin port answers with more than {MOST_BYTES} bytes")
    return bytes(body)


def _details(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        state = value.get("error_state")
        if isinstance(state, dict) and state.get("details"):
            yield str(state["details"])[:2000]
        for inner in value.values():
            yield from _details(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _details(inner)
