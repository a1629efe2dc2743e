"""The command line itself: which commands there are, and what bad input looks like. Needs `seawall[cli]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError

import seawall
from seawall.cli import BAD_INPUT, config, policy, registry, saga, saga_words
from seawall.cli import gateway as envoy
from seawall.cli.check import check
from seawall.cli.demo import demo

GROUPS: dict[str, tuple[str, list[Callable[..., object]]]] = {
    "config": ("What a configuration says, and where each value comes from.", [config.show]),
    "registry": (
        "Look into a registry, and change what stands there.",
        [registry.ls, registry.watch, registry.register, registry.drain],
    ),
    "policy": ("Look at the policies of a fleet, and give orders to its circuits.", [policy.ls, policy.isolate, policy.reset]),
    "saga": (
        "Run sagas, look at them, and say what only a human can.",
        [saga.worker, saga.ls, saga.show, saga.why, saga.diff, saga_words.retry, saga_words.skip, saga_words.resolve,
         saga_words.cancel],
    ),
    "gateway": (
        "Run a real Envoy that follows a file and the registries it names.",
        [envoy.render, envoy.bootstrap, envoy.status],
    ),
}  # fmt: skip

app = App(
    name="seawall",
    help="Calls between services that stay safe when the other side does not.",
    version=seawall.__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(check, name="check")
app.command(demo, name="demo")
for name, (about, verbs) in GROUPS.items():
    group = App(name=name, help=about)
    for verb in verbs:
        group.command(verb, name=verb.__name__)
    if name == "gateway":
        group.default(envoy.run)
    app.command(group)


def run(argv: Sequence[str]) -> int:
    """Run one command; its exit status. Input that cannot be read is told on stderr, with status 2."""
    try:
        status = app(list(argv), exit_on_error=False)
    except CycloptsError:
        return BAD_INPUT
    return status if isinstance(status, int) else 0
