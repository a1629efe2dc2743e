"""`seawall policy ls | isolate | reset`: the policies of a whole fleet, through the store that its processes share."""

from __future__ import annotations

import json as codec
import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from seawall.cli import BAD_INPUT
from seawall.cli.table import clean, table

Store = Annotated[str, Parameter(env_var="SEAWALL_STORE")]


def ls(*, store: Store, fleet: str = "default", json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """List every policy of every live process.

    Parameters
    ----------
    store
        The URL of the store, such as redis://127.0.0.1:6379.
    fleet
        The fleet's name.
    json
        Print the list as JSON, with all figures.
    """
    from seawall.shared.fleet import Fleet

    def act() -> int:
        found = sorted(Fleet(store, name=fleet).ls(), key=lambda each: (each.name, each.instance))
        if json:
            print(codec.dumps([asdict(each) for each in found], indent=1))
            return 0
        rows = [("policy", "kind", "state", "rejected", "process")]
        rows += [(e.name, e.kind, e.state or "", str(e.snapshot.get("rejected", "")), e.instance) for e in found]
        table(rows)
        return 0

    return _guarded(act)


def isolate(policy: str, /, *, store: Store, fleet: str = "default") -> int:
    """Let every process refuse all calls of the circuits of this name, until `reset`.

    Parameters
    ----------
    policy
        The circuit's name.
    store
        The URL of the store, such as redis://127.0.0.1:6379.
    fleet
        The fleet's name.
    """
    return _order("isolate", policy, store, fleet)


def reset(policy: str, /, *, store: Store, fleet: str = "default") -> int:
    """Close the circuits of this name in every process.

    Parameters
    ----------
    policy
        The circuit's name.
    store
        The URL of the store, such as redis://127.0.0.1:6379.
    fleet
        The fleet's name.
    """
    return _order("reset", policy, store, fleet)


def _order(verb: str, policy: str, store: str, fleet: str) -> int:
    from seawall.shared.fleet import Fleet

    def act() -> int:
        members = Fleet(store, name=fleet)
        processes = {each.instance for each in members.ls() if each.name == policy and each.kind == "circuit_breaker"}
        number = members.order(verb, policy)
        print(f"order {number}: {verb} {clean(policy)}; {len(processes)} processes have a circuit of this name now")
        return 0 if processes else 1

    return _guarded(act)


def _guarded(act: object) -> int:
    """Run a command; what the store or the user did wrong is told on stderr."""
    from seawall.core.errors import MissingExtra
    from seawall.shared.port import StoreDown

    try:
        return act()  # type: ignore[operator, no-any-return]
    except (StoreDown, MissingExtra, ValueError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
