"""The command line itself: which commands there are, and what bad input looks like. Needs `seawall[cli]`."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts import App, CycloptsError

import seawall
from seawall.cli import BAD_INPUT
from seawall.cli.gateway import run as run_gateway

app = App(
    name="seawall",
    help="Calls between services that stay safe when the other side does not.",
    version=seawall.__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command("seawall.cli.check:check", name="check")
app.command("seawall.cli.demo:demo", name="demo")
settings = App(name="config", help="What a configuration says, and where each value comes from.")
settings.command("seawall.cli.config:show", name="show")
app.command(settings)
registry = App(name="registry", help="Look into a registry, and change what stands there.")
for verb in ("ls", "watch", "register", "drain"):
    registry.command(f"seawall.cli.registry:{verb}", name=verb)
app.command(registry)
policy = App(name="policy", help="Look at the policies of a fleet, and give orders to its circuits.")
for verb in ("ls", "isolate", "reset"):
    policy.command(f"seawall.cli.policy:{verb}", name=verb)
app.command(policy)
saga = App(name="saga", help="Run sagas, look at them, and say what only a human can.")
for verb in ("worker", "ls", "show", "why", "diff"):
    saga.command(f"seawall.cli.saga:{verb}", name=verb)
for verb in ("retry", "skip", "resolve", "cancel"):
    saga.command(f"seawall.cli.saga_words:{verb}", name=verb)
app.command(saga)
gateway = App(name="gateway", help="Run a real Envoy that follows a file and the registries it names.")
gateway.default(run_gateway)
for verb in ("render", "status"):
    gateway.command(f"seawall.cli.gateway:{verb}", name=verb)
app.command(gateway)


def run(argv: Sequence[str]) -> int:
    """Run one command; its exit status. Input that cannot be read is told on stderr, with status 2."""
    try:
        status = app(list(argv), exit_on_error=False)
    except CycloptsError:
        return BAD_INPUT
    return status if isinstance(status, int) else 0
