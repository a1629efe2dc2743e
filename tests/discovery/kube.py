"""A small API server that speaks Kubernetes' list and watch as documented: versions, pages, bookmarks, 410, and bad manners."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

LABEL = "kubernetes.io/service-name"


def slice_of(service: str, name: str, *endpoints: dict[str, Any], port: int | None = 8001, kind: str = "IPv4") -> dict[str, Any]:
    """One EndpointSlice."""
    ports = [{"name": "http", "port": port, "protocol": "TCP"}]
    metadata = {"name": name, "namespace": "default", "labels": {LABEL: service}}
    return {"metadata": metadata, "addressType": kind, "endpoints": list(endpoints), "ports": ports}


def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
    """One endpoint of a slice."""
    target = {"kind": "Pod", "name": f"pod-{address.replace('.', '-')}", "uid": f"uid-{address}"}
    where = {"addresses": [address], "zone": "a", "nodeName": "n1", "targetRef": target}
    return {**where, "conditions": conditions or {"ready": True}}


class ApiServer:
    """`async with ApiServer() as server`: server.port; put and drop slices; break it by its switches."""

    def __init__(self, *, token: str | None = None, context: ssl.SSLContext | None = None, page: int | None = None) -> None:
        self.slices: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[int, dict[str, Any]]] = []
        self.version = 100
        self.oldest = 0
        self.token = token
        self.page = page
        self.lists = self.watches = self.bookmarks_sent = 0
        self.frozen = False
        self._finished = 0
        self._context = context
        self._writers: set[asyncio.StreamWriter] = set()
        self._watching: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> ApiServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *told: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    # --- what happens in the cluster

    async def put(self, one: dict[str, Any]) -> None:
        """Create or replace a slice."""
        kind = "MODIFIED" if one["metadata"]["name"] in self.slices else "ADDED"
        await self._event(kind, one)
        self.slices[one["metadata"]["name"]] = one

    async def drop(self, name: str) -> None:
        """Delete a slice."""
        await self._event("DELETED", self.slices.pop(name))

    async def bookmark(self) -> None:
        """Tell all watches where they stand."""
        await self._event("BOOKMARK", {"kind": "EndpointSlice", "metadata": {}})

    async def compact(self) -> None:
        """Forget the past: versions before now are gone."""
        self.oldest = self.version
        self.log.clear()

    async def finish(self) -> None:
        """End all watches as their timeout does."""
        async with self._changed:
            self._finished += 1
            self._changed.notify_all()

    async def cut(self) -> None:
        """End all watches abruptly, in the middle of a chunk."""
        for writer in list(self._watching):
            writer.transport.abort()

    async def _event(self, kind: str, one: dict[str, Any]) -> None:
        async with self._changed:
            self.version += 1
            one["metadata"]["resourceVersion"] = str(self.version)
            self.log.append((self.version, json.loads(json.dumps({"type": kind, "object": one}))))
            self._changed.notify_all()

    # --- HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self._tasks.discard(task)
            self._watching.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *rest = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
        url = urlsplit(first.split()[1])
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        while self.frozen:
            await asyncio.sleep(0.02)
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            return await self._send(writer, 401, {"kind": "Status", "code": 401, "message": "Unauthorized"})
        if url.path != "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices":
            return await self._send(writer, 403, {"kind": "Status", "code": 403, "message": "endpointslices is forbidden"})
        if query.get("watch"):
            return await self._watch(writer, query)
        return await self._list(writer, query)

    async def _list(self, writer: asyncio.StreamWriter, query: dict[str, str]) -> None:
        self.lists += 1
        found = [one for _, one in sorted(self.slices.items()) if _wanted(one, query)]
        start, page = int(query.get("continue", 0)), self.page or len(found) or 1
        more = {"continue": str(start + page)} if start + page < len(found) else {}
        about = {"resourceVersion": str(self.version), **more}
        await self._send(writer, 200, {"kind": "EndpointSliceList", "metadata": about, "items": found[start : start + page]})

    async def _watch(self, writer: asyncio.StreamWriter, query: dict[str, str]) -> None:
        self.watches += 1
        at, finished = int(query["resourceVersion"]), self._finished
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._watching.add(writer)
        if at < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": f"too old resource version: {at}"}
            await self._chunk(writer, {"type": "ERROR", "object": gone})
        else:
            while True:
                for version, event in list(self.log):
                    if version > at and (event["type"] == "BOOKMARK" or _wanted(event["object"], query)):
                        await self._chunk(writer, event)
                        self.bookmarks_sent += event["type"] == "BOOKMARK"
                at = self.version
                async with self._changed:
                    while (self.version == at or self.frozen) and self._finished == finished:
                        await self._changed.wait()
                if self._finished != finished:
                    break
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _chunk(self, writer: asyncio.StreamWriter, event: Any) -> None:
        body = json.dumps(event).encode() + b"\n"
        half = len(body) // 2  # in two pieces, as networks do
        for piece in (body[:half], body[half:]):
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write(head.encode() + text)
        await writer.drain()


def _wanted(one: dict[str, Any], query: dict[str, str]) -> bool:
    name, _, value = query.get("labelSelector", "").partition("=")
    label = one["metadata"]["labels"].get(name)
    return label is not None and (not value or label == value)
