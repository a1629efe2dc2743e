"""The naive models at full size: twenty examples for each second of the campaign, four of those in virtual time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

MODELS = [
    ("test_balancer_model", "BalancerMachine"),
    ("test_breaker_model", "BreakerMachine"),
    ("test_bulkhead_model", "BulkheadMachine"),
    ("test_adaptive_limit_model", "AdaptiveLimitMachine"),
    ("test_limit_shares_model", "SharesMachine"),
    ("test_admission_model", "AdmissionMachine"),
    ("test_budget_model", "ShareMachine"),
    ("test_budget_model", "TokensMachine"),
    ("test_budget_model", "InFlightMachine"),
    ("test_throttle_model", "ThrottleMachine"),
    ("test_cache_model", "CacheMachine"),
    ("test_fault_model", "FaultMachine"),
    ("test_hedge_model", "HedgeMachine"),
    ("test_retry_model", "RetryMachine"),
    ("test_timeout_model", "TimeoutMachine"),
    ("test_keyed_model", "KeyedMachine"),
    ("test_keyed_model", "PanicMachine"),
]

SLOW = {"TimeoutMachine", "RetryMachine"}


def load(name: str) -> ModuleType:
    """A sibling test module, which is no package."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"soak_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.soak
@pytest.mark.parametrize(("module", "machine"), MODELS)
def test_the_models_agree_for_as_long_as_asked(module: str, machine: str, soak_seconds: float) -> None:
    """B4 and BH1 with ten thousand examples and more in `make soak`; the models that run in virtual time are slower."""
    examples = max(20, int(soak_seconds * (4 if machine in SLOW else 20)))
    size = settings(
        max_examples=examples, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(getattr(load(module), machine), settings=size)
    print(f"{examples} examples of {machine}")
