"""Who goes on where whom was, when settings were read again."""

from __future__ import annotations

from collections.abc import Mapping

from seawall.pipeline.pipeline import Pipeline
from seawall.pipeline.policy import Policy


def take_over(fresh: Mapping[str, Pipeline], old: Mapping[str, Pipeline]) -> None:
    """Policies that have the name, or else the place among their kind, of one that was there before go on where it was.

    A policy in two pipelines takes over once.
    """
    done: set[int] = set()
    for name, pipeline in fresh.items():
        if name in old:
            pipeline.listen(old[name].sinks)
            for new, before in _pairs(list(pipeline.policies), list(old[name].policies)):
                if id(new) not in done:
                    done.add(id(new))
                    new.take_over(before)


def _pairs(mine: list[Policy], theirs: list[Policy]) -> list[tuple[Policy, Policy]]:
    pairs = []
    for new in mine:
        before = next((old for old in theirs if new.is_named and (old.kind, old.name) == (new.kind, new.name)), None)
        if before is not None:
            pairs.append((new, before))
    for kind in {policy.kind for policy in mine}:
        taken = {id(policy) for pair in pairs for policy in pair}
        left = [[policy for policy in side if policy.kind == kind and id(policy) not in taken] for side in (mine, theirs)]
        pairs += zip(*left, strict=False)
    return pairs
