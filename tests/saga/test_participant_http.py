"""A participant at the door of a real service: uvicorn in its own process, over loopback, killed and asked in every order."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from seawall.testing.servers import free_port

HERE = Path(__file__).parent


class Service:
    """A uvicorn process that can be killed and started again on its port, over the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "participant_app:app", "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**os.environ, "BOOKINGS": str(self.folder)}
        self.process = subprocess.Popen([*command, "--log-level", "error", "--app-dir", str(HERE)], env=environment)
        until = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/", timeout=5)
                return
            except httpx.TransportError:
                assert time.monotonic() < until, "the service did not start"
                time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def post(self, path: str, body: Any, *, key: str | None = "k1", fence: str = "1.1", **headers: str) -> httpx.Response:
        sent = {"Seawall-Fence": fence, "Seawall-Issued": f"{time.time():.3f}", **headers}
        if key is not None:
            sent["Idempotency-Key"] = key
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, headers=sent, timeout=30)

    def undo(self, *, key: str = "k1", fence: str = "1.1", **body: Any) -> httpx.Response:
        return self.post("/cancel", body, key=key, fence=fence, **{"Seawall-Undo": "1"})

    def lines(self) -> list[tuple[str, int]]:
        """What was booked; nothing before the service has made its table."""
        if not (self.folder / "books.db").exists():
            return []
        with closing(sqlite3.connect(self.folder / "books.db", timeout=30)) as connection:
            made = connection.execute("SELECT count(*) FROM sqlite_master WHERE name='line'").fetchone()[0]
            return connection.execute("SELECT key, amount FROM line ORDER BY rowid").fetchall() if made else []


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """One that runs."""
    made = Service(tmp_path)
    made.start()
    yield made
    made.kill()


def test_a_repeated_request_gets_the_stored_answer_and_books_once(service: Service) -> None:
    """The answer got lost on its way: the sender asks again, and must get the same one without a second booking."""
    first, again = service.post("/book", {"amount": 3}), service.post("/book", {"amount": 3})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json() == {"booked": 3, "doubtful": False}
    assert (first.headers.get("seawall-repeated"), again.headers["seawall-repeated"]) == (None, "1")
    assert service.lines() == [("k1", 3)]


def test_many_duplicates_at_once_book_once_and_the_others_are_told_to_wait(service: Service) -> None:
    """Retries, hedges and two workers can all be there at the same moment."""
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: service.post("/book", {"amount": 3, "slow": 0.5}), range(12)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes.count(201) >= 1
    assert set(codes) <= {201, 409}
    assert 409 in codes
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 409)
    assert service.lines() == [("k1", 3)]
    assert service.post("/book", {"amount": 3, "slow": 0.5}).headers["seawall-repeated"] == "1"


def test_an_undo_that_meets_a_running_do_waits_and_then_takes_it_back(service: Service) -> None:
    """Success would be a lie: what is still being booked would stay booked."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(service.post, "/book", {"amount": 3, "slow": 4.0})
        until = time.monotonic() + 20
        while not service.lines():
            assert time.monotonic() < until
        met = service.undo()
        assert (met.status_code, met.headers["retry-after"]) == (409, "1")
        assert running.result().status_code == 201
    assert service.undo().status_code == 201
    assert service.undo().status_code == 204
    assert service.lines() == [("k1", 3), ("k1", -3)]
    assert service.post("/book", {"amount": 3, "slow": 4.0}).status_code == 410


def test_an_undo_before_its_do_leaves_a_tombstone_that_refuses_the_late_do(service: Service) -> None:
    """A request that was stuck in a queue arrives after the saga was taken back."""
    assert service.undo().status_code == 204
    late = service.post("/book", {"amount": 3})
    assert (late.status_code, late.json()["title"]) == (410, "EffectUndone")
    assert not (service.folder / "books.db").exists()


def test_what_no_saga_would_send_is_refused_with_its_own_status(service: Service) -> None:
    """Each refusal asks for another reaction, so each has its status."""
    assert service.post("/book", {"amount": 3}, fence="1.5").status_code == 201
    assert service.post("/book", {"amount": 4}, fence="1.5").status_code == 422
    stale = service.post("/book", {"amount": 3}, fence="1.4")
    assert (stale.status_code, stale.json()["title"]) == (412, "StaleFence")
    assert service.undo(fence="1.4").status_code == 412
    assert service.post("/book", {"amount": 3}, fence="2.1").status_code == 201, "a new timeline is above every epoch of the old"
    assert service.post("/book", {"amount": 3}, fence="nonsense").status_code == 400
    assert service.post("/book", {"amount": 3}, key="k" * 300).status_code == 400
    assert service.post("/book", {"amount": 3}, key="k3", **{"Seawall-Issued": "17"}).status_code == 410
    assert service.post("/book", {"amount": 3}, key="k3", **{"Seawall-Issued": f"{time.time() + 4000:.0f}"}).status_code == 400
    assert service.post("/book", {"amount": 3, "pad": "x" * 1_100_000}, key="k3").status_code == 413
    assert service.post("/book", {"amount": 3}, key=None).status_code == 201, "what has no key is not guarded"
    assert service.lines() == [("k1", 3), ("", 3)]


def test_a_refusal_frees_the_key_and_a_failure_leaves_it_in_doubt(service: Service) -> None:
    """422 of the service proves that nothing was booked; 500 proves nothing, so its undo really runs."""
    assert service.post("/book", {"amount": 3, "fail": 422}).status_code == 422
    assert service.post("/book", {"amount": 3}).status_code == 201
    assert service.post("/book", {"amount": 3, "fail": 422}, key="k3").status_code == 422
    assert service.undo(key="k3").status_code == 204
    assert service.post("/book", {"amount": 3, "fail": 500, "lies": True}, key="k2").status_code == 500
    again = service.post("/book", {"amount": 3, "fail": 500, "lies": True}, key="k2")
    assert again.json()["doubtful"] is True
    assert service.undo(key="k2").status_code == 201
    assert sum(amount for key, amount in service.lines() if key != "k1") == 0


def test_after_kill_9_between_started_and_done_the_key_is_in_doubt_at_once(service: Service) -> None:
    """A dead process holds nothing: the do may be repeated and knows that it is a repetition, and the undo runs."""
    for key in ("k1", "k2"):
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(service.post, "/book", {"amount": 3, "slow": 60}, key=key)
            until = time.monotonic() + 20
            while not (service.folder / "books.db").exists() or key not in dict(service.lines()):
                assert time.monotonic() < until
            service.kill()
            assert isinstance(running.exception(), httpx.TransportError)
        service.start()
    taken = service.undo(key="k1")
    assert taken.status_code == 201
    assert service.lines() == [("k1", 3), ("k2", 3), ("k1", -3)]
    assert service.post("/book", {"amount": 3, "slow": 60}, key="k1").status_code == 410
