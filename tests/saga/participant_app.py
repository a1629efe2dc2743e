"""A real service behind a participant, run by uvicorn as a process of its own: it books, slowly if asked, into a SQLite file."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from typing import Any

from seawall.saga import Participant

FOLDER = os.environ["BOOKINGS"]


def books() -> sqlite3.Connection:
    """The service's own data: every effect adds a line, every undo one with the opposite sign."""
    connection = sqlite3.connect(f"{FOLDER}/books.db", timeout=30, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS line (key TEXT, amount INTEGER)")
    return connection


async def service(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """POST /book {"amount": 3, "slow": 0.2, "fail": 409} books; POST /cancel takes back what the key stands for."""
    if scope["type"] != "http":
        return
    asked = json.loads((await receive())["body"] or b"{}")
    call = scope.get("seawall.call")
    key, status = call.key if call else "", asked.get("fail", 201)
    if scope["method"] == "GET":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    connection = books()
    if status < 400 or asked.get("lies"):
        there = connection.execute("SELECT coalesce(sum(amount), 0) FROM line WHERE key=?", (key,)).fetchone()[0]
        if scope["path"] == "/cancel":
            connection.execute("INSERT INTO line VALUES (?, ?)", (key, -there))
        elif not (call and call.doubtful and there):
            connection.execute("INSERT INTO line VALUES (?, ?)", (key, asked["amount"]))
    connection.close()
    await asyncio.sleep(asked.get("slow", 0))
    body = json.dumps({"booked": asked.get("amount"), "doubtful": bool(call and call.doubtful)}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


app = Participant(f"{FOLDER}/effects.db").guard(service)
