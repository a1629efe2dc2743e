"""Temporal: one generic workflow interprets every definition, its activities are our steps and undos with our keys.

Each definition has a task queue of its own, so a saga is only handed to workers that have its version; a workflow holds nothing
but the saga's data, so it needs no code of yours and cannot break a replay. No workflow has a time limit: it would skip the undo.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import urllib.parse
import uuid
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from temporalio import activity, workflow
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)  # fmt: skip
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.exceptions import TimeoutError as ActivityTimeout
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from seawall.core import units
from seawall.saga.definition import Definition
from seawall.saga.engines.interpret import Interpreter, Lost
from seawall.saga.engines.port import Health
from seawall.saga.engines.remote import perform
from seawall.saga.engines.rows import bare_row, memo_of, row_of, said_of, with_look
from seawall.saga.errors import JournalMissing, NotAllowed, UnknownSaga
from seawall.saga.plan import TERMINAL
from seawall.saga.port import Row, Start, Started

if TYPE_CHECKING:
    from seawall.saga.engines.sagas import EngineSagas
    from seawall.saga.operate import Word

TYPE: Final = "seawall-saga"
LARGEST: Final = 1_900_000  # bytes; Temporal refuses payloads above 2 MiB
YEARS: Final = datetime.timedelta(days=3650)
ANSWER: Final = 20.0  # seconds for a worker to answer a question or take a word
OFFERED: Final = frozenset({"branches", "moves"})
ONCE: Final = RetryPolicy(maximum_attempts=1)


class _Runtime:
    """What Temporal lends the interpreter, inside a workflow."""

    waves = False

    def __init__(self, brief: dict[str, Any]) -> None:
        self._beat = datetime.timedelta(seconds=brief["lease"])
        self._most: int | None = brief.get("continue_after")

    def now(self) -> float:
        return workflow.time()

    async def act(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["step"] if request["verb"] != "undo" else f"{request['step']}.undo"
        try:
            answer: dict[str, Any] = await workflow.start_activity(
                name, request, result_type=dict, start_to_close_timeout=YEARS, heartbeat_timeout=self._beat, retry_policy=ONCE,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )  # fmt: skip
        except ActivityError as error:
            raise Lost(str(error.cause or error), crashed=isinstance(error.cause, ActivityTimeout)) from error
        return answer

    async def wait(self, changed: Callable[[], bool], seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await workflow.wait_condition(changed, timeout=seconds)

    def spawn(self, work: Coroutine[Any, Any, None]) -> Any:
        return asyncio.create_task(work)

    def full(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or (self._most is not None and info.get_current_history_length() >= self._most)

    async def tell(self, status: str, error: str | None) -> None:
        workflow.upsert_memo({"seawall_status": {"status": status, "error": error}})


@workflow.defn(name=TYPE, sandboxed=False)
class SagaWorkflow:
    """Every saga of every name: the definition comes with the saga, as data."""

    @workflow.init
    def __init__(self, brief: dict[str, Any]) -> None:
        self._brief = brief
        self._saga = Interpreter(brief, _Runtime(brief))

    @workflow.run
    async def run(self, brief: dict[str, Any]) -> dict[str, Any]:
        """Until the saga has ended. A saga that did not complete fails its workflow, so that it is seen in Temporal too."""
        end = await self._end()
        if end["status"] == "moved":
            plan = end["plan"] or {}
            again = {**brief, **plan, "state": end["state"]}
            workflow.continue_as_new(again, task_queue=plan.get("queue"))
        if end["status"] != "completed":
            raise ApplicationError(
                f"{brief['name']} {brief['id']} is {end['status']}: {end['error']}", end, type="SagaCompensated"
            )
        return {**end, "hash": brief["hash"]}

    async def _end(self) -> dict[str, Any]:
        while True:
            try:
                return await self._saga.run()
            except asyncio.CancelledError:  # somebody cancelled it in Temporal itself
                word = {"verb": "cancel", "actor": "temporal", "reason": "cancelled in Temporal", "step": None, "value": None}
                self._saga.take_word({**word, "token": f"temporal-{workflow.info().get_current_history_length()}"})

    @workflow.signal(name="signal")
    def signal(self, said: dict[str, Any]) -> None:
        """`handle.signal`: name, payload as JSON text, id."""
        self._saga.take_signal(said["name"], said.get("payload"), said.get("id"))

    @workflow.signal(name="word")
    def word(self, said: dict[str, Any]) -> None:
        """An operator's word: verb, step, value, actor, reason, token."""
        self._saga.take_word(said)

    @workflow.query(name="look")
    def look(self) -> dict[str, Any]:
        """How the saga stands."""
        return self._saga.look()


class TemporalEngine:
    """The client and the workers of one process. url: "temporal://host:port/namespace", namespace "default" when left out.

    queue_prefix: what the task queues begin with. Default "seawall". client: a connected `temporalio.client.Client`, for TLS or
    API keys; default one that connects to the URL. continue_after: events of a history after which a saga goes on in a new one,
    >= 20; default None = when the server suggests it.
    """

    name = "temporal"
    capabilities = OFFERED
    largest = LARGEST

    def __init__(
        self, sagas: EngineSagas, url: str, *, queue_prefix: str = "seawall", client: Client | None = None,
        continue_after: int | None = None,
    ) -> None:  # fmt: skip
        parts = urllib.parse.urlsplit(url)
        if not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f'url must read like "temporal://127.0.0.1:7233" or "temporal://host:7233/namespace"; got {url!r}')
        self._target = f"{parts.hostname}:{parts.port or 7233}"
        self._namespace = parts.path.strip("/") or "default"
        self._sagas = sagas
        self._prefix = queue_prefix
        self._given = client
        self._most = None if continue_after is None else units.whole("continue_after", continue_after, least=20)
        self._workers: list[Worker] = []
        self._running: list[asyncio.Task[None]] = []

    @property
    def client(self) -> Client:
        """The connected client."""
        return self._client

    async def open(self) -> None:
        """Connect."""
        try:
            self._client = self._given or await Client.connect(self._target, namespace=self._namespace)
        except RuntimeError as error:  # what the client raises when nobody listens
            raise JournalMissing(f"Temporal does not answer at {self._target}: {error}") from error

    def queue_of(self, name: str, version: int, hash_: str) -> str:
        """The task queue of one definition."""
        return f"{self._prefix}/{name}/v{version}/{hash_}"

    # --- running

    async def run_worker(self) -> None:
        """One worker for each definition."""
        sagas, lease = self._sagas, datetime.timedelta(seconds=self._sagas.lease)
        sagas.worker_id = f"{sagas.name}-{uuid.uuid4().hex[:12]}"
        for definition, saga in sagas.given():
            worker = Worker(
                self._client, task_queue=self.queue_of(definition.name, definition.version, definition.hash),
                workflows=[SagaWorkflow], activities=self._activities(definition, saga), identity=sagas.worker_id,
                max_concurrent_activities=sagas.running, max_heartbeat_throttle_interval=lease / 3,
                sticky_queue_schedule_to_start_timeout=min(lease, datetime.timedelta(seconds=10)),
                graceful_shutdown_timeout=datetime.timedelta(seconds=sagas.grace),
                build_id=f"v{definition.version}-{definition.hash}",
            )  # fmt: skip
            self._workers.append(worker)
            self._running.append(asyncio.create_task(worker.run()))

    def _activities(self, definition: Definition, saga: Any) -> list[Callable[..., Any]]:
        """One activity for each step and undo, named as they are, so that Temporal's own pages show them."""

        async def act(request: dict[str, Any]) -> dict[str, Any]:
            beat = asyncio.create_task(self._beat())
            try:
                return await perform(self._sagas, definition, saga, request)
            finally:
                beat.cancel()

        def named(name: str) -> Callable[..., Any]:
            async def one(request: dict[str, Any]) -> dict[str, Any]:
                return await act(request)

            return activity.defn(name=name)(one)

        steps = [step for step in definition.steps.values() if step.kind == "step"]
        names = [step.name for step in steps] + [f"{step.name}.undo" for step in steps if step.undo_fn is not None]
        return [named(name) for name in (*names, *(["output"] if "output" not in names else []))]

    async def _beat(self) -> None:
        """Signs of life, while an attempt runs."""
        while True:
            await asyncio.sleep(self._sagas.lease / 3)
            activity.heartbeat()

    async def close(self) -> None:
        """Let attempts end within their grace, then hand the rest to other workers."""
        await asyncio.gather(*(worker.shutdown() for worker in self._workers))
        await asyncio.gather(*self._running)
        self._workers, self._running = [], []

    # --- starting and asking

    async def start(self, start: Start, brief: dict[str, Any]) -> Started:
        """Start the workflow, or find the one with this id."""
        id_ = workflow_id(start.user_id, start.name)
        if self._most is not None:
            brief["continue_after"] = self._most
        try:
            await self._client.start_workflow(
                TYPE, brief, id=id_, task_queue=self.queue_of(start.name, start.version, start.hash), memo=memo_of(start, brief),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE, id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                task_timeout=datetime.timedelta(seconds=max(1.0, min(brief["lease"], 10.0))),
            )  # fmt: skip
        except WorkflowAlreadyStartedError:
            memo = await self._memo(await self._describe(id_))
            return Started(id_, memo["seawall"]["input_hash"], new=False)
        except RPCError as error:
            raise JournalMissing(f"Temporal at {self._target} did not take the start: {error}") from error
        return Started(id_, start.input_hash, new=True)

    async def _describe(self, id_: str) -> WorkflowExecutionDescription:
        """Raises UnknownSaga."""
        try:
            return await self._client.get_workflow_handle(id_).describe()
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                raise UnknownSaga(f"no saga {id_!r} in Temporal's namespace {self._namespace!r}") from error
            raise JournalMissing(f"Temporal at {self._target} does not answer: {error}") from error

    @staticmethod
    async def _memo(described: Any) -> dict[str, Any]:
        memo: dict[str, Any] = dict(await described.memo())
        return memo

    async def find(self, id: str, name: str | None) -> Row:
        """By the user's id, among the sagas given here, else among all."""
        names = [name] if name is not None else sorted({definition.name for definition, _ in self._sagas.given()})
        for each in names:
            with contextlib.suppress(UnknownSaga):
                return await self._row(await self._describe(workflow_id(id, each)))
        quoted = (id + "/").replace("'", "''")
        async for found in self._client.list_workflows(
            f"WorkflowId STARTS_WITH '{quoted}' AND WorkflowType = '{TYPE}'", limit=20
        ):
            memo = await self._memo(found)
            if memo.get("seawall", {}).get("id") == id and name in (None, memo["seawall"]["name"]):
                return await self._row(await self._describe(found.id))
        raise UnknownSaga(f"no saga {id!r}" + (f" of {name}" if name else "") + f" in Temporal's namespace {self._namespace!r}")

    async def _row(self, described: WorkflowExecutionDescription) -> Row:
        """With what a worker tells of it; without, as far as Temporal knows it."""
        row = row_of(described, await self._memo(described))
        handle = self._client.get_workflow_handle(described.id)
        if described.status != WorkflowExecutionStatus.RUNNING:
            await self._ended(handle, row)
        try:
            told = await handle.query("look", rpc_timeout=datetime.timedelta(seconds=ANSWER if self._workers else 2.0))
        except (RPCError, WorkflowQueryFailedError):
            return row  # no worker has this version now; what Temporal itself knows must do
        return with_look(row, told)

    async def _ended(self, handle: WorkflowHandle[Any, Any], row: Row) -> Row:
        """How a closed workflow ended."""
        try:
            end: dict[str, Any] = await handle.result(rpc_timeout=datetime.timedelta(seconds=ANSWER))
        except WorkflowFailureError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError) and cause.type == "SagaCompensated":
                end = cause.details[0]
            else:
                end = {"status": "stuck", "error": f"ended in Temporal, so nothing more is taken back: {cause}"}
        row.status, row.output, row.error = end["status"], end.get("output"), end.get("error")
        row.hash = row.hash or end.get("hash", "")
        return row

    async def end(self, id: str) -> Row:
        """Wait for the workflow; look now and then whether it is stuck."""
        handle = self._client.get_workflow_handle(id)
        waiting = asyncio.ensure_future(handle.result())
        pause = 0.5
        try:
            while not (await asyncio.wait([waiting], timeout=pause))[0]:
                described = await self._describe(id)
                row = row_of(described, await self._memo(described))
                if row.status == "stuck":
                    return row
                pause = min(5.0, pause * 1.5)
            failed = waiting.exception()
            if failed is not None and not isinstance(failed, WorkflowFailureError):
                raise failed
            if failed is None:
                described_end: dict[str, Any] = waiting.result()
                return self._short(id, described_end)
            return await self._ended(handle, self._short(id, {}))
        finally:
            waiting.cancel()

    def _short(self, id_: str, end: dict[str, Any]) -> Row:
        """A row of what is known without asking once more."""
        user_id, _, name = id_.rpartition("/")
        row = bare_row(id_, user_id, name, end.get("status", "running"))
        row.hash, row.output, row.error = end.get("hash", ""), end.get("output"), end.get("error")
        return row

    async def signal(self, id: str, name: str, payload: str | None, signal_id: str | None) -> bool:
        """Kept by Temporal until a worker takes it."""
        await self._send(id, "signal", {"name": name, "payload": payload, "id": signal_id})
        return True

    async def _send(self, id_: str, signal: str, said: dict[str, Any]) -> None:
        try:
            await self._client.get_workflow_handle(id_).signal(signal, said)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                raise NotAllowed(f"{id_} has ended, so nothing more can be said to it") from error
            raise JournalMissing(f"Temporal at {self._target} does not answer: {error}") from error

    async def operate(self, row: Row, word: Word, definition: Definition | None) -> Row:
        """A signal, and a question until the saga says what came of it."""
        if row.status in TERMINAL:
            raise NotAllowed(f"{row.name} {row.user_id} is {row.status}; nothing more can be done about it")
        queue = "" if definition is None else self.queue_of(definition.name, definition.version, definition.hash)
        said = said_of(word, definition, queue)
        token = said["token"]
        await self._send(row.id, "word", said)
        until = self._sagas.clock.monotonic() + ANSWER
        while self._sagas.clock.monotonic() < until:
            with contextlib.suppress(RPCError, WorkflowQueryFailedError):
                told = await self._client.get_workflow_handle(row.id).query("look")
                if token in told["answers"]:
                    if told["answers"][token] is not None:
                        raise NotAllowed(told["answers"][token])
                    return with_look(row, told)
            await self._sagas.clock.asleep(0.1)
        raise JournalMissing(
            f"{row.name} {row.user_id}: no worker has answered; Temporal keeps the word, and it is carried out once one runs"
        )

    async def list(self, name: str | None, statuses: Iterable[str], limit: int) -> list[Row]:
        """By Temporal's own list."""
        wanted, found = set(statuses), []
        async for each in self._client.list_workflows(f"WorkflowType = '{TYPE}'"):
            if each.status == WorkflowExecutionStatus.CONTINUED_AS_NEW:
                continue
            row = row_of(each, await self._memo(each))
            if (name is None or row.name == name) and (not wanted or row.status in wanted):
                found.append(row)
            if len(found) >= limit:
                break
        return found

    async def health(self) -> Health:
        """Whether Temporal answers."""
        try:
            alive = await self._client.service_client.check_health(timeout=datetime.timedelta(seconds=2))
        except RPCError as error:
            return Health("fail", str(error))
        return Health("pass" if alive else "fail", f"Temporal at {self._target}, namespace {self._namespace}")


def workflow_id(user_id: str, name: str) -> str:
    """The workflow id of a saga: unique per name, and readable."""
    return f"{user_id}/{name}"
