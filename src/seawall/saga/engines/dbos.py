"""DBOS: one generic workflow interprets every definition, its steps are our steps and undos with our keys, in its own tables.

DBOS replays a workflow by the numbers of its operations, so a saga runs in waves (`waves`). It does not say whether a step began
before its process died: the first wave after an unclean end is answered as lost, and the rules decide what that means.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dbos import DBOS, DBOSClient, Serializer, SetWorkflowAttributes, SetWorkflowID, error

from seawall.saga.definition import Definition
from seawall.saga.engines.attempts import Attempts
from seawall.saga.engines.dbos_tables import TOPIC, TYPE, Tables, first_line
from seawall.saga.engines.interpret import Interpreter
from seawall.saga.engines.port import Health
from seawall.saga.engines.rows import bare_row, memo_of, row_of_attributes, said_of, with_look
from seawall.saga.engines.waves import operation_of, run_in_waves
from seawall.saga.errors import JournalMissing, NotAllowed, SagaError
from seawall.saga.plan import TERMINAL
from seawall.saga.port import Row, Start, Started

if TYPE_CHECKING:
    from seawall.saga.engines.sagas import EngineSagas
    from seawall.saga.operate import Word

VERSION: Final = "seawall"  # of the DBOS application: definitions have versions of their own, which the saga carries
OFFERED: Final = frozenset({"moves", "unique_ids", "large_payloads"})
LARGEST: Final = 1 << 30
ANSWER: Final = 20.0  # seconds for a worker to take a word
LONG: Final = 1.0  # seconds from which a step's end is a moment to look for words
_here: DbosEngine | None = None


class JsonText(Serializer):
    """Everything as JSON, errors as their text: what another process wrote is data, never code."""

    def serialize(self, data: Any) -> str:
        """Raises TypeError for what JSON has no word for."""
        return json.dumps({"error": f"{type(data).__name__}: {data}"} if isinstance(data, Exception) else {"value": data})

    def deserialize(self, serialized_data: str) -> Any:
        """What was written; an error becomes a SagaError of its text."""
        found = json.loads(serialized_data)
        return SagaError(found["error"]) if "error" in found else found["value"]

    def name(self) -> str:
        """How DBOS marks rows that were written so."""
        return "seawall_json"


@DBOS.workflow(name=TYPE, max_recovery_attempts=None)
async def _saga_workflow(brief: dict[str, Any]) -> dict[str, Any]:
    while _here is None or not _here.ready:  # it was recovered before its worker is up
        await asyncio.sleep(0.05)
    return await _here.run(brief)


class _Live:
    """The operations of one saga in this process. doubtful: its first wave may have begun in a process that died; received: the
    messages that were taken before."""

    def __init__(self, engine: DbosEngine, attempts: int, *, doubtful: bool, received: int) -> None:
        self.engine = engine
        self.attempts = attempts
        self.doubtful = doubtful
        self.received = received
        self.busy = 0
        self.task = asyncio.current_task()
        self.saga: Interpreter | None = None

    def began(self, saga: Interpreter) -> None:
        self.saga = saga

    async def act(self, request: dict[str, Any]) -> dict[str, Any]:
        reserved = DBOS.reserve_step()  # before anything can wait: its number is its place in the history
        lost = self.doubtful
        if self.engine.closing:
            await asyncio.Event().wait()

        async def body() -> dict[str, Any]:
            self.doubtful = False
            if lost:
                said = {"lost": f"the process that ran {operation_of(request)} ended", "crashed": True}
                return {**said, "at": self.engine.now()}
            assert self.saga is not None
            return await self.engine.perform(self.saga, request)

        self.busy += 1
        try:
            return await reserved.run_async({"name": operation_of(request)}, body)
        finally:
            self.busy -= 1

    async def receive(self, seconds: float) -> dict[str, Any] | None:
        said: dict[str, Any] | None = await DBOS.recv_async(TOPIC, timeout_seconds=seconds)
        self.received -= 1
        if self.received < 0:
            self.doubtful = False
        return said

    async def tell(self, status: str, error: str | None) -> None:
        workflow_id = DBOS.workflow_id
        assert workflow_id is not None
        said = {"seawall_status": {"status": status, "error": error}}
        await DBOS.update_workflow_attributes_async(workflow_id, said, merge=True)


class DbosEngine:
    """The client and the worker of one process. url: "dbos+postgresql://user@host/database" or "dbos+sqlite:///file".

    executor_id: which process this is. One that starts takes up the sagas that the last one of this id left; processes that run
    at the same time need different ones. Default "local". schema: where DBOS keeps its tables. Default "dbos".

    A process has one DBOS, which this starts and ends; so an application that starts its own runs its sagas in another process.
    """

    name = "dbos"
    capabilities = OFFERED
    largest = LARGEST

    def __init__(self, sagas: EngineSagas, url: str, *, executor_id: str = "local", schema: str = "dbos") -> None:
        self._url = url.removeprefix("dbos+")
        if not self._url.startswith(("sqlite:///", "postgresql://")):
            raise ValueError(f'url must read like "dbos+postgresql://user@host/database" or "dbos+sqlite:///file"; got {url!r}')
        self._sagas = sagas
        self._executor = executor_id
        self._schema = schema
        self._client: DBOSClient | None = None
        self._open: dict[str, _Live] = {}
        self._fresh: set[str] = set()
        self._ends: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.ready = self.closing = False

    # --- opening and closing

    async def open(self) -> None:
        """Connect; a worker makes the tables first."""
        if not (self._sagas.is_worker and self._sagas.given()):
            await self._connect()

    async def _connect(self) -> None:
        def connect() -> DBOSClient:
            file = self._url.removeprefix("sqlite:///").partition("?")[0]
            if self._url.startswith("sqlite") and not Path(file).exists():  # to look must not make one
                raise FileNotFoundError(f"there is no {file}")
            client = DBOSClient(
                system_database_url=self._url, dbos_system_schema=self._schema, serializer=JsonText(),
                retry_connection_errors=False,
            )  # fmt: skip
            client.list_workflows(name=TYPE, limit=1)
            return client

        try:
            self._client = await asyncio.to_thread(connect)
            self.tables = Tables(self._client)
        except Exception as failed:  # whatever its driver raises
            raise JournalMissing(
                f"DBOS's tables cannot be read: {first_line(failed)}; a worker makes them: "
                "seawall saga worker dbos+... MODULE:FUNCTION"
            ) from failed

    async def run_worker(self) -> None:
        """Start DBOS in this process; it takes up at once what the last process of this executor id left."""
        global _here
        if _here is not None:
            raise SagaError("this process runs sagas on DBOS already, and has one DBOS; give all sagas to one Sagas")
        sagas, self._loop = self._sagas, asyncio.get_running_loop()
        self._attempts = Attempts(sagas)
        sagas.worker_id = f"{sagas.name}-{uuid.uuid4().hex[:12]}"
        queues = [queue_of(definition) for definition, _ in sagas.given()]

        def launch() -> None:
            DBOS(config={
                "name": "seawall", "system_database_url": self._url, "dbos_system_schema": self._schema, "serializer": JsonText(),
                "application_version": VERSION, "executor_id": self._executor, "log_level": "ERROR",
                "notification_listener_polling_interval_sec": sagas.poll,
            })  # fmt: skip
            DBOS.listen_queues(queues)
            DBOS.launch()
            for queue in queues:
                DBOS.register_queue(queue, polling_interval_sec=sagas.poll)

        _here = self
        try:
            await asyncio.to_thread(launch)
            await self._connect()
            self.ready = True
        except Exception as failed:
            _here = None
            await self._destroy()
            raise JournalMissing(f"DBOS cannot be started: {first_line(failed)}") from failed

    async def close(self) -> None:
        """Let attempts end within their grace, then leave the rest to the next process of this executor id."""
        global _here
        if _here is self:
            self.closing = True
            await self._attempts.close()
            until = self._sagas.clock.monotonic() + self._sagas.grace
            while any(live.busy for live in self._open.values()) and self._sagas.clock.monotonic() < until:
                await self._sagas.clock.asleep(0.01)  # DBOS writes the answers down
            for id_, live in list(self._open.items()):
                if live.busy == 0:  # nothing began that was not answered: the next process has nothing to doubt
                    await self.tables.note(id_, {"seawall_clean": live.attempts})
            here = [live.task for live in self._open.values() if live.task and live.task.get_loop() is self._loop]
            for task in here:
                task.cancel()
            await asyncio.gather(*here, return_exceptions=True)
            await self._destroy()
            _here = None
        if self._client is not None:
            self._client.destroy()
            self._client = None

    async def _destroy(self) -> None:
        """End DBOS, which has made its own threads those of this loop, and takes them along."""
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            await self._loop.run_in_executor(thread, DBOS.destroy)
        self._loop.set_default_executor(concurrent.futures.ThreadPoolExecutor())

    # --- running

    def now(self) -> float:
        """This process's moment."""
        return self._sagas.now()

    async def run(self, brief: dict[str, Any]) -> dict[str, Any]:
        """One saga, by its history as far as there is one."""
        id_ = str(DBOS.workflow_id)
        live = _Live(self, 1, doubtful=False, received=0)
        if brief.get("token") in self._fresh:  # the start that this process made, and not an earlier one of this id
            self._fresh.discard(brief["token"])
        else:
            await self._look_back(id_, live)
        self._open[id_] = live
        try:
            return await run_in_waves(brief, live, live.began)
        finally:
            self._open.pop(id_, None)

    async def _look_back(self, id_: str, live: _Live) -> None:
        """Whether it ran before, and how that ended."""
        status = await self.tables.status(id_)
        live.attempts = status.recovery_attempts or 1
        live.doubtful = live.attempts > 1 and (status.attributes or {}).get("seawall_clean") != live.attempts - 1
        live.received = await self.tables.received(id_)

    async def perform(self, saga: Interpreter, request: dict[str, Any]) -> dict[str, Any]:
        """One attempt; if it took long, with whether an operator's word waits."""
        began = self._sagas.clock.monotonic()
        answer = await self._attempts.perform(saga.brief, request)
        if self._sagas.clock.monotonic() - began >= LONG:
            word = ((await self.tables.status(str(DBOS.workflow_id))).attributes or {}).get("seawall_word")
            answer["mail"] = word is not None and word not in saga.answers
        return answer

    # --- starting and asking

    async def find(self, id: str, name: str | None) -> Row:
        """A saga by its own id or by the user's, with all that its history tells. Raises UnknownSaga."""
        return await self.tables.find(id, name, sorted({definition.name for definition, _ in self._sagas.given()}))

    async def list(self, name: str | None, statuses: Iterable[str], limit: int) -> list[Row]:
        """The newest sagas, without their records."""
        return await self.tables.list(name, statuses, limit)

    async def start(self, start: Start, brief: dict[str, Any]) -> Started:
        """Start the workflow here, or leave it to a worker; or find the one with this id."""
        id_ = f"{start.user_id}/{start.name}"
        memo, token = memo_of(start, brief), uuid.uuid4().hex
        try:
            if _here is self:
                brief["token"] = token
                self._fresh.add(token)
                with SetWorkflowID(id_, workflow_id_reuse_policy="reject"), SetWorkflowAttributes(memo):
                    handle = await DBOS.start_workflow_async(_saga_workflow, brief)
                self._ends[id_] = asyncio.ensure_future(handle.get_result())
                self._ends[id_].add_done_callback(lambda _: self._ends.pop(id_, None))
            else:
                queue = queue_of(self._sagas.definition_of(start.name))
                await self.tables.client.enqueue_async({
                    "workflow_name": TYPE, "queue_name": queue, "workflow_id": id_, "workflow_id_reuse_policy": "reject",
                    "app_version": VERSION, "attributes": memo,
                }, brief)  # fmt: skip
        except error.DBOSWorkflowIDInUseError:
            self._fresh.discard(token)
            told = ((await self.tables.status(id_)).attributes or {}).get("seawall", {})
            return Started(id_, told.get("input_hash", ""), new=False)
        return Started(id_, start.input_hash, new=True)

    async def end(self, id: str) -> Row:
        """Wait for the workflow; look now and then whether it is stuck."""
        waiting = self._ends.get(id)
        pause = 0.5 if waiting else 0.05
        while True:
            if waiting is not None and (await asyncio.wait([waiting], timeout=pause))[0]:
                return _ended(id, waiting.result())
            row = row_of_attributes(await self.tables.status(id))
            if row.status in TERMINAL or row.status == "stuck":
                return row
            if waiting is None:
                await self._sagas.clock.asleep(pause)
            pause = min(1.0, pause * 1.5)

    async def signal(self, id: str, name: str, payload: str | None, signal_id: str | None) -> bool:
        """Kept by DBOS until the saga waits."""
        row = row_of_attributes(await self.tables.status(id))
        if row.status in TERMINAL:
            raise NotAllowed(f"{row.name} {row.user_id} is {row.status}, so nothing more can be said to it")
        await self.tables.send(id, {"kind": "signal", "name": name, "payload": payload, "id": signal_id, "at": self.now()})
        return True

    async def operate(self, row: Row, word: Word, definition: Definition | None) -> Row:
        """A message; its answer is in the history once the saga has read it."""
        if row.status in TERMINAL:
            raise NotAllowed(f"{row.name} {row.user_id} is {row.status}; nothing more can be done about it")
        said = said_of(word, definition, "")
        token = said["token"]
        await self.tables.send(row.id, {"kind": "word", **said, "at": self.now()})
        await self.tables.note(row.id, {"seawall_word": token})
        until = self._sagas.clock.monotonic() + ANSWER
        while self._sagas.clock.monotonic() < until:
            status = await self.tables.status(row.id, whole=True)
            told = await self.tables.retell(status)
            if token in told["answers"]:
                if told["answers"][token] is not None:
                    raise NotAllowed(told["answers"][token])
                return with_look(row_of_attributes(status), told)
            await self._sagas.clock.asleep(0.1)
        raise JournalMissing(
            f"{row.name} {row.user_id}: no worker has taken the word yet; DBOS keeps it until the steps under way have ended"
        )

    async def health(self) -> Health:
        """Whether its database answers."""
        try:
            await asyncio.wait_for(self.tables.client.check_connection_async(), 2)
        except Exception as failed:  # whatever its driver raises
            return Health("fail", first_line(failed))
        return Health("pass", "DBOS's tables answer")


def queue_of(definition: Definition) -> str:
    """The queue for starts by processes that run no sagas; a worker listens to those of its definitions."""
    return f"seawall/{definition.name}/v{definition.version}/{definition.hash}"


def _ended(id_: str, end: dict[str, Any]) -> Row:
    """A row of what is known without asking once more."""
    user_id, _, name = id_.rpartition("/")
    row = bare_row(id_, user_id, name, end["status"])
    row.hash, row.output, row.error = end["hash"], end.get("output"), end.get("error")
    return row
