"""A participant before an ASGI application: repeated requests get the stored answer, and what must not happen is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

from seawall.saga.errors import BadCall, EffectBusy, EffectExpired, EffectUndone, KeyReused, ParticipantError, StaleFence
from seawall.saga.participant import Attempt, Call, Participant

STATUS: Final = {BadCall: 400, EffectBusy: 409, EffectUndone: 410, EffectExpired: 410, StaleFence: 412, KeyReused: 422}
UNSAFE: Final = ("POST", "PUT", "PATCH", "DELETE")
NO_EFFECT: Final = frozenset(range(400, 500)) - {408, 409}
REPEATED: Final = (b"seawall-repeated", b"1")
Message = dict[str, Any]


class Guarded:
    """An ASGI application behind a participant, made by `Participant.guard(app)`.

    Guarded are POST, PUT, PATCH and DELETE below one of `paths` (default all) that carry `Idempotency-Key`; one without it passes
    unguarded, or is answered 400 when `required`. The fingerprint is the method, the path with its query, and the body.

    The application runs once per key. 2xx and 3xx count as done and are stored and repeated, with `Seawall-Repeated: 1`; 4xx
    (but 408 and 409) say that nothing happened, so the key stays free; 5xx and a broken connection leave it in doubt, and a
    repetition runs the application again with `scope["seawall.call"].doubtful` set. A request with `Seawall-Undo: 1` takes
    back: it reaches the application only if there is something to take back, else it is answered 204.

    Refusals are problem+json: 400 bad headers, 409 with Retry-After while a request with the key is under way, 410 undone or
    too old, 412 stale fence, 413 body too large, 422 the key was used with another request.
    """

    def __init__(self, participant: Participant, app: Any, *, paths: tuple[str, ...] = ("/",), required: bool = False) -> None:
        self._participant = participant
        self._app = app
        self._paths = paths
        self._required = required

    async def __call__(self, scope: Message, receive: Callable[[], Any], send: Callable[[Message], Any]) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] not in UNSAFE or not scope["path"].startswith(self._paths):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            call = Call.read(headers)
            if call is None and self._required:
                raise BadCall("this path needs an Idempotency-Key")
            if call is None:
                await self._app(scope, receive, send)
                return
            body = await _body(receive, self._participant.codec.largest)
            if body is None:
                await _problem(send, 413, "BodyTooLarge", f"the body may have {self._participant.codec.largest} bytes")
                return
            attempt = await asyncio.to_thread(self._participant.begin, call, _fingerprint(scope, body))
        except ParticipantError as error:
            wait = error.retry_after if isinstance(error, EffectBusy) else None
            await _problem(send, STATUS[type(error)], type(error).__name__, str(error), wait)
            return
        if attempt.run:
            await self._run(attempt, scope, body, send)
        elif call.undo:
            await _answer(send, 204, [REPEATED], b"")
        else:
            stored = json.loads(attempt.answer or "{}")
            kept = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in stored["headers"]]
            await _answer(send, stored["status"], [*kept, REPEATED], base64.b64decode(stored["body"]))

    async def _run(self, attempt: Attempt, scope: Message, body: bytes, send: Callable[[Message], Any]) -> None:
        """Let the application answer, write the answer down, and only then send it."""
        status, headers, parts, size = 0, [], [], 0
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message: Message) -> None:
            nonlocal status, headers, size
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message.get("headers", ()))
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                if size <= self._participant.codec.largest:
                    parts.append(message.get("body", b""))

        try:
            await self._app({**scope, "seawall.call": attempt.call}, receive, keep)
        except BaseException:
            self._participant.settle(attempt, "lost")
            raise
        if size > self._participant.codec.largest:
            said = f"the request was carried out, but its answer of {size} bytes is too large to be kept and repeated"
            status, headers, parts = _problem_parts(500, "AnswerTooLarge", said)
        how = _ending(attempt.call, status, whole=size > self._participant.codec.largest)
        stored = {"status": status, "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in headers]}
        stored["body"] = base64.b64encode(b"".join(parts)).decode()
        await asyncio.shield(asyncio.to_thread(self._participant.settle, attempt, how, json.dumps(stored)))
        await _answer(send, status, headers, b"".join(parts))


def _ending(call: Call, status: int, *, whole: bool) -> str:
    """What an answer's status says of the effect."""
    if whole or 200 <= status < 400:
        return "undone" if call.undo else "done"
    return "rejected" if status in NO_EFFECT and not call.undo else "lost"


def _fingerprint(scope: Message, body: bytes) -> str:
    said = f"{scope['method']} {scope['path']}?{scope.get('query_string', b'').decode('latin-1')}\n"
    return hashlib.sha256(said.encode() + body).hexdigest()


async def _body(receive: Callable[[], Any], most: int) -> bytes | None:
    """The whole body, or None when it is too large. Raises BadCall when the client is gone."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadCall("the client left before its request was complete")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


async def _answer(send: Callable[[Message], Any], status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _problem_parts(status: int, title: str, detail: str) -> tuple[int, list[tuple[bytes, bytes]], list[bytes]]:
    body = json.dumps({"type": f"urn:seawall:{title}", "title": title, "status": status, "detail": detail}).encode()
    return status, [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())], [body]


async def _problem(send: Callable[[Message], Any], status: int, title: str, detail: str, wait: float | None = None) -> None:
    status, headers, parts = _problem_parts(status, title, detail)
    if wait is not None:
        headers.append((b"retry-after", str(max(1, -(-int(wait * 1000) // 1000))).encode()))
    await _answer(send, status, headers, parts[0])
