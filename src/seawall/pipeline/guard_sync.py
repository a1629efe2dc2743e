"""The shapes of a guarded call, sync. Word for word guard_async.py without `async` and `await`; a test compares the two.

Each shape is a function of (policy, inner, run): do the policy's part around `inner(run)`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from seawall.pipeline.streams import END

KIND = "threads"


def perform(run: Any, inner: Any) -> Any:
    """The whole call: open it, run the layers, tell how it ended."""
    try:
        run.open()
        result = inner(run)
        run.succeeded()
        return result
    except BaseException as error:
        run.failed(error)
        raise
    finally:
        run.close()


def invoke(run: Any) -> Any:
    """The innermost layer: the user's function."""
    return run.finish(run.fn(*run.args, **run.kwargs))


def guard(policy: Any, inner: Any, run: Any) -> Any:
    """Hold a permit around the call."""
    held = policy.enter(run)
    if held.ticket is not None:
        wait(held, run)
    try:
        result = inner(run)
        held.judge(result)
        return result
    except BaseException as error:
        held.fail(error)
        raise
    finally:
        held.settle()


def wait(held: Any, run: Any) -> None:
    """Wait in the queue until the permit is there."""
    try:
        flag = held.ticket.event = run.port.event()
        while (pause := held.pending()) is not None:
            flag.wait(pause if pause < float("inf") else None)
    except BaseException:
        held.abandon()
        raise


def retry(policy: Any, inner: Any, run: Any) -> Any:
    """Try again while the policy finds it worth it."""
    return repeat(policy.course(run), inner, run)


def repeat(course: Any, inner: Any, run: Any) -> Any:
    """Make the attempts of a course, from the one where it stands."""
    try:
        while True:
            if course.failed:
                run.port.sleep(course.pause)
                course.next()
            try:
                result = inner(run)
                if not course.unwanted(result):
                    return result
            except Exception as error:
                if not course.again(error):
                    raise
    finally:
        course.end()


def timeout(policy: Any, inner: Any, run: Any) -> Any:
    """Give the call a limit."""
    spell = policy.spell(run)
    try:
        return inner(run)
    except BaseException as error:
        spell.check(error)
        raise
    finally:
        spell.end()


def hop(policy: Any, inner: Any, run: Any) -> Any:
    """Run what is inside on a worker thread, and stop waiting for it when its time is over."""
    worker = policy.start(inner, run)
    try:
        flag = worker.watch(run.port)
        while (pause := worker.pending()) is not None:
            flag.wait(pause if pause < float("inf") else None)
        return worker.result()
    except BaseException:
        worker.abandon(run)
        raise


def hedge(policy: Any, inner: Any, run: Any) -> Any:
    """Race copies of the call."""
    race = policy.race(inner, run)
    if race.alone:
        return compete(race.single, inner, run)
    try:
        race.begin(compete)
        while (pause := race.pending()) is not None:
            race.flag.wait(pause if pause < float("inf") else None)
        return race.result()
    except BaseException as error:
        race.cut_by(error)
        raise
    finally:
        run.port.reap(race.losers(), race.message)


def compete(copy: Any, inner: Any, run: Any) -> Any:
    """One copy of a call: it keeps its result for the race, and tells when it has ended."""
    try:
        return copy.keep(inner(run))
    except BaseException as error:
        copy.lose(error)
        if copy.alone:
            raise
    finally:
        copy.end()
    return None


def fallback(policy: Any, inner: Any, run: Any) -> Any:
    """Answer with something else when the call fails."""
    try:
        return inner(run)
    except Exception as error:
        if not policy.takes(error):
            raise
        failure = error
    return run.answer(policy.value(failure, run))


def cache(policy: Any, inner: Any, run: Any) -> Any:
    """Answer from memory, wait for somebody who fetches, or fetch."""
    seat = policy.seat(run)
    while seat.ticket is not None:
        wait(seat, run)
    if not seat.leads:
        if seat.refreshes:
            seat.watch(run.port.spawn(refresh, seat, inner, seat.background()))
        return seat.answer()
    try:
        return seat.keep(inner(run))
    except Exception as error:
        return seat.rescue(error)
    finally:
        seat.land()


def refresh(seat: Any, inner: Any, run: Any) -> None:
    """Fetch a new answer in the background."""
    seat.detach()
    try:
        seat.keep(inner(run))
    except Exception as error:
        seat.lost(error)
    finally:
        seat.land()


def fault(policy: Any, inner: Any, run: Any) -> Any:
    """Break the call on purpose, if it is its turn."""
    plan = policy.plan(run)
    try:
        if plan.delay:
            run.port.sleep(plan.delay)
        if plan.fails:
            return run.answer(policy.outcome(run, plan))
        return policy.passed(inner(run), run, plan)
    except BaseException as error:
        policy.failed(error, run)
        raise


def step(run: Any) -> Any:
    """The innermost layer of a stream's further items."""
    return run.step(run.sent)


def stream(run: Any, inner: Any, items: Any) -> Generator[Any, Any, None]:
    """A stream: its first item is the guarded call, its further items are limited each, its permits are held to its end."""
    failure: BaseException | None = None
    try:
        item = perform(run, inner)
        while item is not END:
            try:
                run.sent = yield item
            except GeneratorExit:
                raise
            except BaseException as thrown:
                item = run.throw(thrown)
            else:
                item = perform_item(run, items)
    except BaseException as error:
        failure = error
        raise
    finally:
        try:
            run.stop()
        finally:
            run.release_all(failure)


def perform_item(run: Any, items: Any) -> Any:
    """One further item of a stream, in the stream's own context."""
    run.enter()
    try:
        return items(run)
    finally:
        run.close()


def take(policies: Any, block: Any, run: Any) -> None:
    """Enter a permit block: collect the permits, outermost first."""
    for policy in policies:
        held = policy.enter(run)
        if held.ticket is not None:
            wait(held, run)
        block.append(held)


def attempts(course: Any, port: Any) -> Generator[Any, None, None]:
    """The attempts of a loop: each is offered, then waited for when it failed and is worth another."""
    try:
        while True:
            yield course.attempt()
            if not course.failed:
                return
            port.sleep(course.pause)
            course.next()
    finally:
        course.end()
