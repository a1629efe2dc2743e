"""S5: journals that an earlier Seawall wrote, cut off after every line, and brought to their end by this one.

The files in `stored/` never change: a version that writes something else adds one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger import STEPS, Ledger, PlaceOrder

from seawall.saga import SagaCompensated, Sagas
from seawall.saga.port import Verb

Conduct = Callable[..., Sagas]
STORED = sorted((Path(__file__).parent / "stored").glob("*.json"))


def cut(saga: dict[str, Any], steps: list[dict[str, Any]], lines: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The saga as it was after so many lines, when its owner had died."""
    id_ = f"{saga['id'][:24]}{lines:08}"
    kept = steps[:lines]
    back = any(line["outcome"] != "ok" for line in kept)
    was = {"id": id_, "user_key": id_, "status": "compensating" if back else "running", "output": None, "error": None}
    return {**saga, **was, "owner": "dead", "stamp": lines, "wake_at": 0.0}, [
        {**line, "saga_id": id_, "epoch": 1} for line in kept
    ]


def insert(tx: Any, table: str, row: dict[str, Any]) -> None:
    tx.execute(f"INSERT INTO {table} ({','.join(row)}) VALUES ({','.join('?' * len(row))})", tuple(row.values()))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_journal_goes_on_from_every_line(path: Path, conduct: Conduct, tmp_path: Path) -> None:
    """An upgrade in the middle of a saga: same steps, same graph, same hash, or nothing could ever be upgraded."""
    stored, ledger = json.loads(path.read_text()), Ledger(tmp_path / "ledger.db")

    async def main() -> None:
        async with conduct(PlaceOrder(ledger), worker=False) as asks:
            cuts = [(one["fails"], *cut(one["saga"], one["steps"], n)) for one in stored for n in range(len(one["steps"]))]
            for _, saga, steps in cuts:
                assert saga["def_hash"] == PlaceOrder.definition.hash
                rows = [("saga", saga), *(("saga_step", line) for line in steps)]
                await asks.committer.send(Verb(lambda tx, rows=rows: [insert(tx, *row) for row in rows]))  # type: ignore[misc]
        async with conduct(PlaceOrder(ledger)) as sagas:
            for fails, saga, steps in cuts:
                handle = await sagas.handle(saga["id"])
                with contextlib.suppress(SagaCompensated):
                    assert await handle.result(30) == "paid for 7 of a"
                assert await handle.status() in (("compensated", "failed") if fails else ("completed",))
                done = {line["step"] for line in steps if line["phase"] == "do"}
                if not fails:
                    assert ledger.in_effect()[saga["id"]] == STEPS - done, "what was done is not done again"
                else:
                    assert saga["id"] not in ledger.in_effect()

    asyncio.run(main())
