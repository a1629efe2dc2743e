"""The service client for code without an event loop: the same, for threads."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Unpack

from seawall.balancing.attempt import Attempt, Call, enter, leave
from seawall.balancing.clients.port import Options, Response, SyncStreamed
from seawall.balancing.service import Service


class SyncServiceClient(Service):
    """Calls a service by its name, whichever instance answers. For `with`, and any number of threads.

    Parameters: see `ServiceClient`; transport: "httpx2" (default) or "httpx". A thread cannot be cut, so the nearest deadline
    bounds each part of an attempt instead: connecting, and each wait for a piece of the answer.
    """

    way = "sync"

    # --- verbs

    def request(self, method: str, path: str, **options: Unpack[Options]) -> Response:
        """Send a request to one of the instances; the whole answer. As `ServiceClient.request`."""
        call, identity = self._call(method, path, options)
        scope = enter(call)
        self._started()
        try:
            response: Response = self.pipeline.run_sync(self._send, (call,), {}, identity)
            return response
        finally:
            self._ended()
            leave(scope)

    def get(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("GET", ...)`; repeated and hedged where the pipeline says so."""
        return self.request("GET", path, **options)

    def head(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("HEAD", ...)`; repeated and hedged where the pipeline says so."""
        return self.request("HEAD", path, **options)

    def post(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("POST", ...)`; repeated only when it was never sent, unless marked idempotent."""
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("PUT", ...)`; repeated and hedged where the pipeline says so."""
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("PATCH", ...)`; repeated only when it was never sent, unless marked idempotent."""
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("DELETE", ...)`; repeated and hedged where the pipeline says so."""
        return self.request("DELETE", path, **options)

    def stream(self, method: str, path: str, **options: Unpack[Options]) -> AbstractContextManager[SyncStreamed]:
        """As `request`, for `with`: the answer whose body is still coming. As `ServiceClient.stream`."""
        return self._stream(method, path, options)

    # --- life

    def __enter__(self) -> SyncServiceClient:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Begin to watch, and wait for the first list. Raises RuntimeError when it is open already, WrongTwin under a loop."""
        self._refuse_if_open()
        if self._owns_watch:
            self.watch.__enter__()
            self._watching = True
        try:
            self._begin()
            self._first()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take no more requests, let those under way end for up to `drain` seconds, close all connections, end the watch.
        Harmless when done twice."""
        self._unfollow()
        transport, port = self._transport, self.clock.threads
        until = port.now() + self._drain
        try:
            while self._running and (left := until - port.now()) > 0:
                self._idle = port.event()
                self._idle.wait(left)
        finally:
            self._idle, self._transport = None, None
            watching, self._watching = self._watching, False
            try:
                if transport is not None:
                    transport.close()
            finally:
                if watching:
                    self.watch.__exit__(None, None, None)

    def _first(self) -> None:
        port = self.clock.threads
        until, event = port.now() + self._wait, port.event()
        end = self.watch.subscribe(lambda _: event.set())
        try:
            while not self.watch.snapshot.known and (left := until - port.now()) > 0:
                event.wait(left)
        finally:
            end()
        self.balancer.update(self.watch.snapshot)

    # --- attempts

    def _send(self, call: Call) -> Any:
        attempt = Attempt(self.balancer, call, self.clock)
        try:
            patience = self._patience(whole=True)
            response = self._transport.send(attempt.url, call.request, self._outgoing(call), patience)
        except BaseException as error:
            self._failed(attempt, error)
            raise
        self._answered(attempt, response)
        return response

    @contextmanager
    def _stream(self, method: str, path: str, options: Options) -> Generator[Any, None, None]:
        call, identity = self._call(method, path, options)
        scope = enter(call)
        self._started()
        transport = self._transport
        chunks = self.pipeline.run_stream(self._open, (call,), {}, identity)
        try:
            response = next(chunks)
            try:
                yield response
            except BaseException as error:
                if isinstance(error, Exception) and not transport.broke(response, error):
                    next(chunks, None)  # an error of the block's own says nothing about the service
                else:
                    chunks.throw(error)
                raise
            next(chunks, None)
        finally:
            chunks.close()
            self._ended()
            leave(scope)

    def _open(self, call: Call) -> Generator[Any, None, None]:
        attempt = Attempt(self.balancer, call, self.clock)
        transport, response = self._transport, None
        try:
            patience = self._patience(whole=True)
            response = transport.send(attempt.url, call.request, self._outgoing(call), patience, streamed=True)
            attempt.heard()
            if not self._good(response):  # it may be repeated: nobody reads this body later
                response.read()
                transport.end(response)
                self._answered(attempt, response)
            yield response
        except BaseException as error:
            self._failed(attempt, error)
            raise
        else:
            self._answered(attempt, response)
        finally:
            if response is not None:
                transport.end(response)
            attempt.drop()
