"""`seawall saga retry | skip | resolve | cancel`: what only a human can say, kept with who said it and why."""

from __future__ import annotations

import asyncio
import json as codec
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from seawall.cli import BAD_INPUT
from seawall.cli.saga_telling import Flag, Url, found_journal, guarded, row_as_dict
from seawall.cli.table import clean

if TYPE_CHECKING:
    from seawall.saga.operate import Word
    from seawall.saga.port import Row


def retry(
    id: str, /, *, url: Url, actor: str, reason: str, step: str | None = None, name: str | None = None, json: Flag = False
) -> int:
    """Try again now. For a step that may run once only: you know that it did not run.

    Parameters
    ----------
    id
        Of the saga.
    url
        The journal; also SEAWALL_SAGAS.
    actor
        Who says so; kept.
    reason
        Why; kept.
    step
        Which step, where it matters.
    name
        The saga's name, where one id belongs to several.
    json
        Print the saga's row as JSON.
    """
    return _say(url, id, name, lambda: _word("retry", actor, reason, step), json=json)


def skip(id: str, /, *, url: Url, actor: str, reason: str, step: str, name: str | None = None, json: Flag = False) -> int:
    """Go on as if the step, or its undo, had been done.

    Parameters
    ----------
    id
        Of the saga.
    url
        The journal; also SEAWALL_SAGAS.
    actor
        Who says so; kept.
    reason
        Why; kept.
    step
        The step that waits to be done or undone.
    name
        The saga's name, where one id belongs to several.
    json
        Print the saga's row as JSON.
    """
    return _say(url, id, name, lambda: _word("skip", actor, reason, step), json=json)


def resolve(
    id: str,
    /,
    *,
    url: Url,
    actor: str,
    reason: str,
    step: str | None = None,
    result: str | None = None,
    alternate: str | None = None,
    forward: Flag = False,
    to_version: int | None = None,
    name: str | None = None,
    json: Flag = False,
) -> int:
    """Say how a saga that cannot go on by itself goes on: exactly one of --result, --alternate, --forward, --to-version.

    Parameters
    ----------
    id
        Of the saga.
    url
        The journal; also SEAWALL_SAGAS.
    actor
        Who says so; kept.
    reason
        Why; kept.
    step
        The step that --result or --alternate is about.
    result
        The step's result, as JSON: it took effect, and this came of it.
    alternate
        The name of another undo of the step.
    forward
        Go forward again: what failed or was taken back begins anew.
    to_version
        Go on by this version of the definition.
    name
        The saga's name, where one id belongs to several.
    json
        Print the saga's row as JSON.
    """
    ways = {"resolve": result, "alternate": alternate, "forward": "" if forward else None, "move": to_version}
    given = [(verb, value) for verb, value in ways.items() if value is not None]
    if len(given) != 1:
        print("resolve wants exactly one of --result, --alternate, --forward and --to-version", file=sys.stderr)
        return BAD_INPUT
    verb, value = given[0]
    return _say(url, id, name, lambda: _word(verb, actor, reason, step, str(value)), json=json)


def cancel(id: str, /, *, url: Url, actor: str, reason: str, name: str | None = None, json: Flag = False) -> int:
    """Take a saga back; refused once it has passed its pivot.

    Parameters
    ----------
    id
        Of the saga.
    url
        The journal; also SEAWALL_SAGAS.
    actor
        Who says so; kept.
    reason
        Why; kept.
    name
        The saga's name, where one id belongs to several.
    json
        Print the saga's row as JSON.
    """
    return _say(url, id, name, lambda: _word("cancel", actor, reason), json=json)


def _word(verb: str, actor: str, reason: str, step: str | None = None, value: str | None = None) -> Word:
    from seawall.saga.operate import Word

    return Word(verb, actor, reason, step, value)  # type: ignore[arg-type]


def _say(url: str, id: str, name: str | None, word: Callable[[], Word], *, json: bool) -> int:
    from seawall.saga import Sagas
    from seawall.saga.engines import engine_path

    def act() -> int:
        if engine_path(url) is None:
            found_journal(url)
        told = word()

        async def work() -> Row:
            async with Sagas(url, name="operator", worker=False) as sagas:
                return await sagas.operate(id, told, name=name)

        row = asyncio.run(work())
        if json:
            print(codec.dumps(row_as_dict(row), indent=1))
        else:
            print(f"{row.name} {clean(row.user_id)} is {row.status} now: {told.verb} by {clean(told.actor)} is kept")
        return 0

    return guarded(act)
