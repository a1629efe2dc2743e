"""A process that commits as often as it is told, and prints the longest time that one commit took, in seconds."""

from __future__ import annotations

import os
import sys
import time

from seawall.saga.journals import open_journal
from seawall.saga.port import Verb

INSERT = "INSERT INTO saga_lock (target, saga_id, since) VALUES (?,?,?)"


def main(url: str, times: int) -> None:
    journal = open_journal(url)
    journal.open()
    longest = 0.0
    for n in range(times):
        row = (f"{os.getpid()}-{n}", "x", 0.0)
        began = time.monotonic()
        journal.apply([Verb(lambda tx, row=row: tx.execute(INSERT, row))], sync=True)
        longest = max(longest, time.monotonic() - began)
    journal.close()
    print(longest)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
