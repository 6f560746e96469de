"""Liveness and readiness."""

import json

import pytest

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.health import Health
from trio_gateway.http.messages import HttpRequest, HttpResponse


async def get(health: Health, path: str, method: str = "GET") -> HttpResponse | Refusal | None:
    """Ask for a path."""
    return await health(
        HttpRequest(method=method, path=path, query={}, headers={}, body=b"", remote="")
    )


async def test_healthz_is_ok_as_long_as_it_answers() -> None:
    """Even when it is not ready: restarting would not help."""
    health = Health(unready=lambda: "draining")
    response = await get(health, "/healthz")
    assert isinstance(response, HttpResponse)
    assert (response.status, json.loads(response.body)) == (200, {"status": "ok"})


async def test_readyz_is_200_when_ready() -> None:
    """And says so."""
    response = await get(Health(unready=lambda: None), "/readyz")
    assert isinstance(response, HttpResponse)
    assert (response.status, json.loads(response.body)) == (200, {"status": "ready"})


@pytest.mark.parametrize("reason", ["draining", "store_unavailable", "something_else"])
async def test_readyz_is_503_with_the_reason(reason: str) -> None:
    """A balancer sees the status, a person the reason."""
    refusal = await get(Health(unready=lambda: reason), "/readyz")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (503, reason)
    assert refusal.message
    assert ("Retry-After", "5") in refusal.headers


async def test_other_paths_and_methods_are_not_answered() -> None:
    """None for another path, 405 for another method."""
    health = Health(unready=lambda: None)
    assert await get(health, "/") is None
    assert await get(health, "/healthz/") is None
    refusal = await get(health, "/readyz", "POST")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.headers) == (405, (("Allow", "GET, HEAD"),))
