"""The page says what the code does."""

from __future__ import annotations

import inspect
from pathlib import Path

from seawall.balancing import Balancer, Outliers, PeakEwma, ServiceClient
from seawall.balancing.clients.port import Options

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "patterns" / "load-balancing.md").read_text()


def test_the_numbers_of_the_page_are_the_defaults() -> None:
    """A default that was changed in the code only is believed in the docs for years."""
    outliers, peak = Outliers(), PeakEwma()
    said = {"consecutive_failures": outliers.consecutive_failures, "scan": peak.scan, "sample": peak.sample}
    said |= {"eject_for": round(outliers.eject_for), "decay": round(peak.decay)}
    for name, value in said.items():
        assert f"`{name}={value}`" in PAGE, name
    rule = Balancer().rule
    assert f"| `error_cost` | {rule.error_cost:g} s |" in PAGE
    assert f"| `panic` | {rule.panic:g} |" in PAGE
    assert f"| `slow_start` | {rule.slow_start:g} s |" in PAGE
    assert f"| `zone`, `spill` | {rule.zone}, {rule.spill:g} |" in PAGE
    defaults = {name: one.default for name, one in inspect.signature(ServiceClient).parameters.items()}
    for name, unit in (("idle", ""), ("wait", " s"), ("drain", " s")):
        assert f"| `{name}` | {defaults[name]:g}{unit} |" in PAGE, name


def test_every_option_is_on_the_page() -> None:
    """What is not told is not used."""
    options = [*inspect.signature(Balancer).parameters, *inspect.signature(ServiceClient).parameters, *Options.__annotations__]
    untold = [
        name for name in options if f"`{name}`" not in PAGE and name not in ("name", "clock", "service", "registry", "balancer")
    ]
    assert not untold
