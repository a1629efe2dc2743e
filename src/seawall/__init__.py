"""Seawall: calls between services that stay safe when the other side does not.

`import seawall as sw` loads no driver and no asyncio: names are resolved when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seawall import presets as presets
    from seawall import testing as testing
    from seawall import warnings as warnings
    from seawall.adapters import fastapi as fastapi
    from seawall.core.clock import Clock as Clock
    from seawall.core.clock import SystemClock as SystemClock
    from seawall.core.context import Context as Context
    from seawall.core.context import call_key as call_key
    from seawall.core.context import carry as carry
    from seawall.core.context import current as current
    from seawall.core.context import deadline as deadline
    from seawall.core.context import detached as detached
    from seawall.core.context import priority as priority
    from seawall.core.context import remaining as remaining
    from seawall.core.errors import BudgetSpent as BudgetSpent
    from seawall.core.errors import BulkheadFull as BulkheadFull
    from seawall.core.errors import CircuitOpen as CircuitOpen
    from seawall.core.errors import ConfigError as ConfigError
    from seawall.core.errors import Misplaced as Misplaced
    from seawall.core.errors import MissingExtra as MissingExtra
    from seawall.core.errors import NestedRetryWarning as NestedRetryWarning
    from seawall.core.errors import Overloaded as Overloaded
    from seawall.core.errors import RateLimited as RateLimited
    from seawall.core.errors import Rejected as Rejected
    from seawall.core.errors import SeawallError as SeawallError
    from seawall.core.errors import TimedOut as TimedOut
    from seawall.core.errors import WrongTwin as WrongTwin
    from seawall.core.events import Event as Event
    from seawall.core.events import Sink as Sink
    from seawall.core.findings import SeawallWarning as SeawallWarning
    from seawall.core.outcome import SUCCEEDED as SUCCEEDED
    from seawall.core.outcome import Classifier as Classifier
    from seawall.core.outcome import DefaultClassifier as DefaultClassifier
    from seawall.core.outcome import Kind as Kind
    from seawall.core.outcome import Outcome as Outcome
    from seawall.core.outcome import Verdict as Verdict
    from seawall.core.units import Limit as Limit
    from seawall.core.wire import incoming as incoming
    from seawall.core.wire import outgoing_headers as outgoing_headers
    from seawall.pipeline.adaptive_limit import AdaptiveLimit as AdaptiveLimit
    from seawall.pipeline.adaptive_timeout import AdaptiveTimeout as AdaptiveTimeout
    from seawall.pipeline.admission import AdmissionControl as AdmissionControl
    from seawall.pipeline.breaker import CircuitBreaker as CircuitBreaker
    from seawall.pipeline.bulkhead import Bulkhead as Bulkhead
    from seawall.pipeline.cache import Cache as Cache
    from seawall.pipeline.config import load as load
    from seawall.pipeline.fallback import Fallback as Fallback
    from seawall.pipeline.fault import Fault as Fault
    from seawall.pipeline.fault import faults as faults
    from seawall.pipeline.hedge import Hedge as Hedge
    from seawall.pipeline.keyed import Keyed as Keyed
    from seawall.pipeline.limiter import Decision as Decision
    from seawall.pipeline.limiter import RateLimiter as RateLimiter
    from seawall.pipeline.pipeline import Pipeline as Pipeline
    from seawall.pipeline.policy import Policy as Policy
    from seawall.pipeline.result import Result as Result
    from seawall.pipeline.retry import Retry as Retry
    from seawall.pipeline.retry import transient as transient
    from seawall.pipeline.retry_budget import RetryBudget as RetryBudget
    from seawall.pipeline.throttle import Throttle as Throttle
    from seawall.pipeline.timeout import Timeout as Timeout
    from seawall.policies.backoff import Backoff as Backoff

__version__ = "0.1.0"

_NAMES = {
    "core.clock": ("Clock", "SystemClock"),
    "core.context": ("Context", "call_key", "carry", "current", "deadline", "detached", "priority", "remaining"),
    "core.errors": (
        "BudgetSpent",
        "BulkheadFull",
        "CircuitOpen",
        "ConfigError",
        "Misplaced",
        "MissingExtra",
        "NestedRetryWarning",
        "Overloaded",
        "RateLimited",
        "Rejected",
        "SeawallError",
        "TimedOut",
        "WrongTwin",
    ),
    "core.events": ("Event", "Sink"),
    "core.findings": ("SeawallWarning",),
    "core.outcome": ("SUCCEEDED", "Classifier", "DefaultClassifier", "Kind", "Outcome", "Verdict"),
    "core.units": ("Limit",),
    "core.wire": ("incoming", "outgoing_headers"),
    "pipeline.adaptive_limit": ("AdaptiveLimit",),
    "pipeline.adaptive_timeout": ("AdaptiveTimeout",),
    "pipeline.admission": ("AdmissionControl",),
    "pipeline.breaker": ("CircuitBreaker",),
    "pipeline.bulkhead": ("Bulkhead",),
    "pipeline.cache": ("Cache",),
    "pipeline.config": ("load",),
    "pipeline.fallback": ("Fallback",),
    "pipeline.fault": ("Fault", "faults"),
    "pipeline.hedge": ("Hedge",),
    "pipeline.keyed": ("Keyed",),
    "pipeline.limiter": ("Decision", "RateLimiter"),
    "pipeline.pipeline": ("Pipeline",),
    "pipeline.policy": ("Policy",),
    "pipeline.result": ("Result",),
    "pipeline.retry": ("Retry", "transient"),
    "pipeline.retry_budget": ("RetryBudget",),
    "pipeline.throttle": ("Throttle",),
    "pipeline.timeout": ("Timeout",),
    "policies.backoff": ("Backoff",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "SUCCEEDED",
    "AdaptiveLimit",
    "AdaptiveTimeout",
    "AdmissionControl",
    "Backoff",
    "BudgetSpent",
    "Bulkhead",
    "BulkheadFull",
    "Cache",
    "CircuitBreaker",
    "CircuitOpen",
    "Classifier",
    "Clock",
    "ConfigError",
    "Context",
    "Decision",
    "DefaultClassifier",
    "Event",
    "Fallback",
    "Fault",
    "Hedge",
    "Keyed",
    "Kind",
    "Limit",
    "Misplaced",
    "MissingExtra",
    "NestedRetryWarning",
    "Outcome",
    "Overloaded",
    "Pipeline",
    "Policy",
    "RateLimited",
    "RateLimiter",
    "Rejected",
    "Result",
    "Retry",
    "RetryBudget",
    "SeawallError",
    "SeawallWarning",
    "Sink",
    "SystemClock",
    "Throttle",
    "TimedOut",
    "Timeout",
    "Verdict",
    "WrongTwin",
    "call_key",
    "carry",
    "current",
    "deadline",
    "detached",
    "faults",
    "incoming",
    "load",
    "outgoing_headers",
    "presets",
    "priority",
    "remaining",
    "testing",
    "transient",
    "warnings",
]


def __getattr__(name: str) -> Any:
    if name in ("presets", "testing", "warnings"):
        return import_module(f"seawall.{name}")
    if name == "fastapi":
        return _fastapi()
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'seawall' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"seawall.{home}"), name)
    return value


def _fastapi() -> Any:
    """The adapter for FastAPI and Starlette. Not in `__all__`: it needs an extra."""
    try:
        return import_module("seawall.adapters.fastapi")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "starlette":
            raise
        from seawall.core.errors import MissingExtra

        raise MissingExtra('seawall.fastapi needs Starlette: pip install "seawall[fastapi]"') from missing


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
