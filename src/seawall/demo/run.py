"""Runs the demo: both tellings, the comparison, the file, and the exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from seawall.demo import report
from seawall.demo.figures import Figures, better
from seawall.demo.process import ChildDied
from seawall.demo.services import guarded as guarded_calls
from seawall.demo.story import Story
from seawall.demo.telling import Kind, Telling
from seawall.demo.view import LiveTable, Plain, View
from seawall.shared.wire import told
from seawall.testing.servers import RedisServer

SPARE: Final = 15.0  # seconds beside both tellings in which everything starts, ends and is cleaned up
CLEANS_WITHIN: Final = 4.0  # seconds of these that are kept for ending the processes
EMBEDDED: Final = "embedded"
OK, NOT_BETTER, BROKEN, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose. Checked where it is typed (cli/demo.py).

    seconds: length of one telling. seed: of arrivals and of everything that is drawn. headless: plain lines instead of a
    table. json: where to write the figures, or None. began: monotonic seconds from which the whole run's limit counts. store:
    the URL of a store for payment's rate limit, EMBEDDED for one of our own, or None.
    """

    seconds: float
    seed: int
    headless: bool
    json: Path | None
    began: float
    store: str | None = None


def run(options: Options) -> int:
    """Run the demo; the exit status: 0, or 1 when guarded was not better, 3 when the shop broke, 130 or 143 when stopped."""
    view: View = Plain() if options.headless else LiveTable()
    try:
        return asyncio.run(_until_told_to_stop(options, view))
    except KeyboardInterrupt:
        print("\nStopped. No process of the shop is left.", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except TimeoutError:
        limit = 2 * options.seconds + SPARE
        print(f"\nThe shop did not finish within {limit:g} s; is this machine very busy? Try again.", file=sys.stderr)
        return BROKEN
    except (ChildDied, OSError) as error:
        print(f"\nThe shop broke: {error}", file=sys.stderr)
        return BROKEN


class _Terminated(Exception):
    """SIGTERM came."""


async def _until_told_to_stop(options: Options, view: View) -> int:
    """As Ctrl-C does by itself, SIGTERM cancels the whole and so ends every process."""
    task = asyncio.create_task(_tell_twice(options, view))
    told: list[int] = []

    def stop() -> None:
        told.append(signal.SIGTERM)
        task.cancel()

    with suppress(NotImplementedError):  # Windows has no such handlers, and ends processes without asking
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if told:
            raise _Terminated from None
        raise


async def _tell_twice(options: Options, view: View) -> int:
    story = Story.of(options.seconds)
    left = options.began + 2 * options.seconds + SPARE - CLEANS_WITHIN - time.monotonic()
    view.say(report.opening(story, options.seed))
    async with asyncio.timeout(left):
        bare = await _tell(story, "bare", options.seed, view)
        with _store(options.store) as store:
            if store is not None:
                view.say([f"Payment's rate limit stands in {told(store)}, for every order process that there may be."])
            guarded = await _tell(story, "guarded", options.seed, view, store)
    view.say(["", *report.comparison(story, bare, guarded), ""])
    if options.json is not None:
        write(options.json, document(options, bare, guarded))
        view.say([f"The figures are in {options.json}", ""])
    view.say(report.ending(str(guarded_calls.__file__)))
    return OK if better(bare, guarded) else NOT_BETTER


@contextmanager
def _store(wanted: str | None) -> Iterator[str | None]:
    """The URL of the store, with a server behind it while this lasts."""
    if wanted != EMBEDDED:
        yield wanted
        return
    with RedisServer() as server:
        yield server.url


async def _tell(story: Story, kind: Kind, seed: int, view: View, store: str | None = None) -> Figures:
    view.begin(story, kind)
    try:
        return await Telling(story, kind, seed, view.show, store=store).tell()
    finally:
        view.end()


def document(options: Options, bare: Figures, guarded: Figures) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "seed": options.seed,
        "seconds": options.seconds,
        "bare": bare.as_dict(),
        "guarded": guarded.as_dict(),
        "better": better(bare, guarded),
    }


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write the file in one step: who reads it sees the old one or the new one whole. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(figures, file, indent=2)
            file.write("\n")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
