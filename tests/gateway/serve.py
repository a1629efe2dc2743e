"""One instance as a process of its own, to be killed: answers after 10 ms; on SIGTERM it lets running requests end."""

import asyncio
import sys

from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    await asyncio.sleep(0.01)
    return web.Response(text=sys.argv[1])


app = web.Application()
app.router.add_route("*", "/{path:.*}", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
