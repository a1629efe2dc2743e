"""The workflow that Temporal runs in benchmarks.saga: three empty activities, written by hand."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow


@activity.defn
async def nothing(number: int) -> int:
    """Nothing."""
    return number


@workflow.defn
class Three:
    """One after the other."""

    @workflow.run
    async def run(self, number: int) -> int:
        """The whole of it."""
        for _ in range(3):
            await workflow.execute_activity(nothing, number, start_to_close_timeout=timedelta(seconds=30))
        return number
