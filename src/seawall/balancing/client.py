"""The async service client: a registry that knows the instances, a balancer that chooses one, a pipeline around each call."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Unpack

from seawall.balancing.attempt import Attempt, Call, enter, leave
from seawall.balancing.clients.port import Options, Response, Streamed
from seawall.balancing.service import Service


class ServiceClient(Service):
    """Calls a service by its name, whichever instance answers. For `async with`, in one event loop.

    service: its name in the registry.
    registry: a `Registry`, a watch that somebody else keeps, or a registry's URL.
    pipeline: what guards each call; default None = `presets.http(service)`. Its policies are shared with whoever else uses it.
        Attempts of its Retry and copies of its Hedge go to different instances as long as there are others, and never to an
        ejected one. A failure of one instance while others are well does not count in its circuit breaker.
    balancer: how to choose, made by hand; default None = `Balancer(picker, zone=zone)`. picker, zone: see `Balancer`.
    transport: "httpx2" (default), "httpx" or "aiohttp"; or an object made by hand, see `seawall.balancing.clients`.
    headers: sent with every request. tls: default None = the system's certificates. server_name: what certificates are checked
        against, where registries know addresses only; it is the Host header too. Default None = the address.
    idle: connections kept open while nothing is sent, >= 0. Default 100. What is sent at once is bounded by the pipeline.
    wait: seconds that entering the block waits for the registry's first answer, >= 0; requests before it raise NoInstance.
        Default 5. drain: seconds that leaving the block gives to requests under way, >= 0. Default 5.

    Answers of any status are returned, as the transport's own response; statuses of 500 and above, and 429, are repeated where
    the pipeline says so. Raises TypeError or ValueError naming the parameter; MissingExtra when the transport's client is not
    installed.
    """

    # --- verbs

    async def request(self, method: str, path: str, **options: Unpack[Options]) -> Response:
        """Send a request to one of the instances; the whole answer.

        path: begins with "/". options: see `Options`. Raises what the transport raises when no attempt had an answer, `Rejected`
        (`NoInstance` when nobody is known), `TimedOut`.
        """
        call, identity = self._call(method, path, options)
        scope = enter(call)
        self._started()
        try:
            response: Response = await self.pipeline.run_async(self._send, (call,), {}, identity)
            return response
        finally:
            self._ended()
            leave(scope)

    async def get(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("GET", ...)`; repeated and hedged where the pipeline says so."""
        return await self.request("GET", path, **options)

    async def head(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("HEAD", ...)`; repeated and hedged where the pipeline says so."""
        return await self.request("HEAD", path, **options)

    async def post(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("POST", ...)`; repeated only when it was never sent, unless marked idempotent."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("PUT", ...)`; repeated and hedged where the pipeline says so."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("PATCH", ...)`; repeated only when it was never sent, unless marked idempotent."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Unpack[Options]) -> Response:
        """`request("DELETE", ...)`; repeated and hedged where the pipeline says so."""
        return await self.request("DELETE", path, **options)

    def stream(self, method: str, path: str, **options: Unpack[Options]) -> AbstractAsyncContextManager[Streamed]:
        """As `request`, for `async with`: the answer whose body is still coming.

        The guarded call is what comes until the first byte, which is also what counts as its latency; permits are held, and the
        instance has the request, until the block ends. An error while the body comes counts against the instance and is not
        repeated.
        """
        return self._stream(method, path, options)

    # --- life

    async def __aenter__(self) -> ServiceClient:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Begin to watch, and wait for the first list. Raises RuntimeError when it is open already."""
        self._refuse_if_open()
        if self._owns_watch:
            await self.watch.start()
            self._watching = True
        try:
            self._begin()
            await self._first()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Take no more requests, let those under way end for up to `drain` seconds, close all connections, end the watch.
        Harmless when done twice."""
        self._unfollow()
        transport, port = self._transport, self.clock.tasks
        until = port.now() + self._drain
        try:
            while self._running and (left := until - port.now()) > 0:
                self._idle = port.event()
                await self._idle.wait(left)
        finally:
            self._idle, self._transport = None, None
            watching, self._watching = self._watching, False
            try:
                if transport is not None:
                    await transport.close()
            finally:
                if watching:
                    await self.watch.stop()

    async def _first(self) -> None:
        port = self.clock.tasks
        until, event = port.now() + self._wait, port.event()
        end = self.watch.subscribe(lambda _: event.set())
        try:
            while not self.watch.snapshot.known and (left := until - port.now()) > 0:
                await event.wait(left)
        finally:
            end()
        self.balancer.update(self.watch.snapshot)

    # --- attempts

    async def _send(self, call: Call) -> Any:
        attempt = Attempt(self.balancer, call, self.clock)
        try:
            patience = self._patience(whole=False)
            response = await self._transport.send(attempt.url, call.request, self._outgoing(call), patience)
        except BaseException as error:
            self._failed(attempt, error)
            raise
        self._answered(attempt, response)
        return response

    @asynccontextmanager
    async def _stream(self, method: str, path: str, options: Options) -> AsyncGenerator[Any, None]:
        call, identity = self._call(method, path, options)
        scope = enter(call)
        self._started()
        transport = self._transport
        chunks = self.pipeline.run_async_stream(self._open, (call,), {}, identity)
        try:
            response = await anext(chunks)
            try:
                yield response
            except BaseException as error:
                if isinstance(error, Exception) and not transport.broke(response, error):
                    await anext(chunks, None)  # an error of the block's own says nothing about the service
                else:
                    await chunks.athrow(error)
                raise
            await anext(chunks, None)
        finally:
            await chunks.aclose()
            self._ended()
            leave(scope)

    async def _open(self, call: Call) -> AsyncGenerator[Any, None]:
        attempt = Attempt(self.balancer, call, self.clock)
        transport, response = self._transport, None
        try:
            patience = self._patience(whole=False)
            response = await transport.send(attempt.url, call.request, self._outgoing(call), patience, streamed=True)
            attempt.heard()
            if not self._good(response):  # it may be repeated: nobody reads this body later
                await response.aread()
                await transport.end(response)
                self._answered(attempt, response)
            yield response
        except BaseException as error:
            self._failed(attempt, error)
            raise
        else:
            self._answered(attempt, response)
        finally:
            if response is not None:
                await transport.end(response)
            attempt.drop()
