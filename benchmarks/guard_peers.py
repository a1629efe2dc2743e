"""The same guards by other libraries, as their own documentation sets them up. What is not installed is named and left out.

Install them with `make bench`. They differ in meaning: nopanic's breaker has a time window, circuitbreaker and hyx count
consecutive failures, pyresilience with a sliding window of 100 is the like-for-like of `window_calls=100`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Maker = Callable[[Any], Any]
PLENTY = 1_000_000_000


def sync_breakers() -> dict[str, Maker]:
    """Circuit breakers around a plain function."""

    def circuitbreaker(fn: Any) -> Any:
        from circuitbreaker import circuit

        return circuit()(fn)

    def pybreaker(fn: Any) -> Any:
        from pybreaker import CircuitBreaker

        return CircuitBreaker()(fn)

    def nopanic(fn: Any) -> Any:
        from nopanic import circuit_breaker

        return circuit_breaker()(fn)

    return {"circuitbreaker": circuitbreaker, "pybreaker": pybreaker, "nopanic": nopanic, "pyresilience": _resilient_breaker}


def sync_retries() -> dict[str, Maker]:
    """Retries around a plain function."""

    def nopanic(fn: Any) -> Any:
        from nopanic import retry

        return retry(3)(fn)

    def stamina(fn: Any) -> Any:
        from stamina import retry

        return retry(on=OSError, attempts=3)(fn)

    def tenacity(fn: Any) -> Any:
        from tenacity import retry, stop_after_attempt

        return retry(stop=stop_after_attempt(3))(fn)

    def pyresilience(fn: Any) -> Any:
        from pyresilience import RetryConfig, resilient

        return resilient(retry=RetryConfig())(fn)

    return {"nopanic": nopanic, "stamina": stamina, "tenacity": tenacity, "pyresilience": pyresilience}


def sync_stacks() -> dict[str, Maker]:
    """Rate limit, retry, breaker and bulkhead around a plain function."""

    def nopanic(fn: Any) -> Any:
        from nopanic import bulkhead, circuit_breaker, rate_limit, retry

        return rate_limit(PLENTY)(retry(3)(circuit_breaker()(bulkhead(10)(fn))))

    return {"nopanic": nopanic, "pyresilience": _resilient_stack}


def async_breakers() -> dict[str, Maker]:
    """Circuit breakers around an async function."""

    def circuitbreaker(fn: Any) -> Any:
        from circuitbreaker import circuit

        return circuit()(fn)

    def aiobreaker(fn: Any) -> Any:
        from aiobreaker import CircuitBreaker

        return CircuitBreaker()(fn)

    def hyx(fn: Any) -> Any:
        from hyx.circuitbreaker import consecutive_breaker

        return consecutive_breaker()(fn)

    return {"circuitbreaker": circuitbreaker, "hyx": hyx, "aiobreaker": aiobreaker}


def async_stacks() -> dict[str, Maker]:
    """Rate limit, retry, breaker, bulkhead and timeout around an async function."""

    def nopanic(fn: Any) -> Any:
        from nopanic import bulkhead, circuit_breaker, rate_limit, retry, timeout

        return rate_limit(PLENTY)(retry(3)(circuit_breaker()(bulkhead(10)(timeout(10)(fn)))))

    def hyx(fn: Any) -> Any:
        from hyx.bulkhead import bulkhead
        from hyx.circuitbreaker import consecutive_breaker
        from hyx.ratelimit import tokenbucket
        from hyx.retry import retry
        from hyx.timeout import timeout

        guarded = bulkhead(max_concurrency=10, max_capacity=20)(timeout(10)(fn))
        return tokenbucket(PLENTY, 1)(retry(on=OSError)(consecutive_breaker()(guarded)))

    def by_hand(fn: Any) -> Any:
        import asyncio

        import backoff
        from aiolimiter import AsyncLimiter
        from circuitbreaker import circuit

        limiter, seats = AsyncLimiter(PLENTY, 1), asyncio.Semaphore(10)

        @backoff.on_exception(backoff.expo, OSError, max_tries=3)
        @circuit()
        async def guarded() -> Any:
            async with seats, asyncio.timeout(10):
                return await fn()

        async def limited() -> Any:
            async with limiter:
                return await guarded()

        return limited

    return {
        "nopanic": nopanic,
        "hyx": hyx,
        "pyresilience": _resilient_five,
        "backoff+circuitbreaker+aiolimiter+asyncio": by_hand,
    }


def _resilient_breaker(fn: Any) -> Any:
    from pyresilience import CircuitBreakerConfig, resilient

    return resilient(circuit_breaker=CircuitBreakerConfig(sliding_window_size=100))(fn)


def _resilient_stack(fn: Any) -> Any:
    from pyresilience import BulkheadConfig, CircuitBreakerConfig, RateLimiterConfig, RetryConfig, resilient

    return resilient(
        rate_limiter=RateLimiterConfig(max_calls=PLENTY),
        retry=RetryConfig(),
        circuit_breaker=CircuitBreakerConfig(sliding_window_size=100),
        bulkhead=BulkheadConfig(10),
    )(fn)


def _resilient_five(fn: Any) -> Any:
    from pyresilience import BulkheadConfig, CircuitBreakerConfig, RateLimiterConfig, RetryConfig, TimeoutConfig, resilient

    return resilient(
        rate_limiter=RateLimiterConfig(max_calls=PLENTY),
        retry=RetryConfig(),
        circuit_breaker=CircuitBreakerConfig(sliding_window_size=100),
        bulkhead=BulkheadConfig(10),
        timeout=TimeoutConfig(10),
    )(fn)


def made(makers: dict[str, Maker], fn: Any) -> dict[str, Any]:
    """Those that are installed, around `fn`; the others are told of."""
    guarded = {}
    for name, maker in makers.items():
        try:
            guarded[name] = maker(fn)
        except ImportError as missing:
            print(f"  {name} left out: {missing.name} is not installed; `make bench` installs it")
    return guarded
