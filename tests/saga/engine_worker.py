"""A worker process for the conformance suite: runs every saga of it on one engine; may start one and say so."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from engine_sagas import ALL, Plan
from ledger import Ledger

from seawall.saga import Sagas


async def main(url: str, ledger: str, settings: str, name: str, id: str, plan: str) -> None:
    kept = Ledger(ledger)
    async with Sagas(url, [saga(kept) for saga in ALL], **json.loads(settings)) as sagas:
        await sagas.start(name, Plan(**json.loads(plan)), id=id)
        print("ready", flush=True)
        await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
