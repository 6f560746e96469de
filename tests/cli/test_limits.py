"""Limits and proxies of the gateway as a process: their flags, and what clients meet."""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
from hypothesis import assume, given
from hypothesis import strategies as st
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from tests.cli.process import Running, gateway
from trio_gateway.cli.options import serve_options, share_out
from trio_gateway.client.target import Target
from trio_gateway.errors import ConfigurationError
from trio_gateway.hub.values import HubLimits
from trio_gateway.settings import Limits, Proxies, Rates

# What it is told.


def test_without_flags_the_defaults_hold() -> None:
    """They are those of the settings; no proxy is trusted."""
    options = serve_options({}, {})
    assert (Rates(), Proxies(), HubLimits()) == (options.rates, options.proxies, options.hub)
    assert options.limits.max_connections_per_user is None


def test_a_user_has_twice_the_rate_of_a_connection() -> None:
    """``--messages-per-second`` says both."""
    rates = serve_options({"messages_per_second": "20"}, {}).rates
    assert attrs.evolve(Rates(), messages_per_second=20, messages_per_second_per_user=40) == rates


def test_0_is_no_limit() -> None:
    """Each rate can be turned off."""
    names = ("messages", "bytes", "joins", "api_requests")
    rates = serve_options({f"{name}_per_second": "0" for name in names}, {}).rates
    values = attrs.asdict(rates)
    del values["burst_seconds"]
    assert {None} == set(values.values())


@given(connections=st.integers(1, 10_000), workers=st.integers(1, 64))
def test_workers_share_the_connections(connections: int, workers: int) -> None:
    """Their shares add up to the whole and differ by one at most; nothing else is shared."""
    assume(workers <= connections)
    whole = Limits(max_connections=connections, max_connections_per_ip=7)
    shares = [share_out(whole, number, workers) for number in range(1, workers + 1)]
    counts = [share.max_connections for share in shares]
    assert (connections, True) == (sum(counts), max(counts) - min(counts) <= 1)
    several = attrs.evolve(whole, gives_way=workers > 1)
    assert {several} == {attrs.evolve(share, max_connections=connections) for share in shares}


def test_fewer_connections_than_workers() -> None:
    """They cannot be shared."""
    with pytest.raises(ConfigurationError, match=r"--max-connections: is shared out to the"):
        serve_options({"workers": "4", "max_connections": "3", "store": "redis://x"}, {})


def test_proxies() -> None:
    """Addresses, networks and ``unix``; by a variable too."""
    told = serve_options({}, {"TRIO_GATEWAY_TRUSTED_PROXY": "10.0.0.1, 2001:db8::/32 unix"})
    assert Proxies(trusted=("10.0.0.1", "2001:db8::/32", "unix")) == told.proxies
    assert "10.0.0.1/32" in told.proxies.trusted


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"trusted_proxy": ("proxy.test",)}, "an address, a network (10.0.0.0/8) or unix"),
        ({"proxy_header": "forwarded"}, "needs --trusted-proxy with it"),
        ({"proxy_header": "via"}, "any or forwarded or x-forwarded-for"),
        ({"ipv6_prefix": "129"}, "a whole number from 1 to 128"),
        ({"messages_per_second": "-1"}, "a whole number from 0"),
        ({"max_rooms": "0"}, "a whole number from 1"),
    ],
)
def test_what_cannot_be_meant(flags: dict[str, Any], message: str) -> None:
    """One line that names the flag."""
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        serve_options(flags, {})
    assert str(caught.value).startswith("--" + next(iter(flags)).replace("_", "-"))


# What clients meet.


@asynccontextmanager
async def connect(
    running: Running, *headers: tuple[bytes, bytes], user: str
) -> AsyncGenerator[WebSocketConnection]:
    # trio-websocket leaves its socket open when the server closes first.
    stream = await trio.open_tcp_stream("127.0.0.1", running.port)
    async with stream, trio.open_nursery() as nursery:
        yield await wrap_client_stream(
            nursery, stream, "127.0.0.1", f"/?user={user}", extra_headers=list(headers)
        )
        nursery.cancel_scope.cancel()


async def frame(connection: WebSocketConnection) -> Any:
    return json.loads(await connection.get_message())


async def metrics(running: Running) -> str:
    return (await Target.parse(running.url).request("GET", "/metrics")).body.decode()


async def test_a_flood_is_refused_then_closed() -> None:
    """``rate_limited`` with the time to wait, then 4429; the others talk on; all is counted."""
    async with gateway("--store", "memory", "--messages-per-second", "5") as running:
        async with connect(running, user="ann") as ann, connect(running, user="bob") as bob:
            for number in range(30):
                with suppress(ConnectionClosed):
                    await ann.send_message(
                        json.dumps({"type": "typing", "room": "x", "id": number})
                    )
            codes: list[str] = []
            with suppress(ConnectionClosed):
                while True:
                    if (told := await frame(ann))["type"] == "error":
                        codes.append(told["code"])
                        assert told["code"] != "rate_limited" or 0 < told["retry"] <= 200
            assert ["not_joined"] * 10 == codes[:10]
            assert {"rate_limited"} == set(codes[10:])
            assert ann.closed is not None
            assert (4429, "retry 2000") == (ann.closed.code, ann.closed.reason)
            await bob.send_message('{"type":"message","text":"still here","id":1}')
            while (await frame(bob))["type"] != "ack":
                pass
            found = await metrics(running)
        assert re.search(r'trio_gateway_limited_total\{limit="messages"\} 1[0-9]\.0\n', found)
        assert 'trio_gateway_closes_total{code="4429"} 1.0\n' in found
        assert await running.terminate() == 0


async def test_too_many_api_requests() -> None:
    """429 with Retry-After, before the token is looked at."""
    async with gateway("--store", "memory", "--api-requests-per-second", "1") as running:
        target = Target.parse(running.url)
        answers = [await target.request("GET", "/api/rooms/r/members") for _ in range(3)]
        assert [401, 401, 429] == [answer.status for answer in answers]
        assert b'"rate_limited"' in answers[2].body
        assert 'trio_gateway_limited_total{limit="api_requests"} 1.0\n' in await metrics(running)


async def test_clients_of_a_proxy_and_of_a_user() -> None:
    """Addresses and users are counted as the flags say."""
    flags = ["--max-connections-per-ip", "2", "--trusted-proxy", "127.0.0.0/8"]
    flags += ["--max-connections-per-user", "1", "--store", "memory"]
    async with gateway(*flags) as running:
        header = (b"X-Forwarded-For", b"2001:db8::1")
        other = (b"Forwarded", b'for="[2001:db8::2]:4711"')
        async with connect(running, header, user="ann"):
            with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True):
                async with connect(running, header, user="ann"):
                    pass
            async with connect(running, other, user="bob"):
                with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True):
                    async with connect(running, other, user="eve"):
                        pass
                async with connect(running, user="eve"):
                    found = await metrics(running)
        for limit in ("too_many_connections_per_user", "too_many_connections_per_ip"):
            assert f'trio_gateway_limited_total{{limit="{limit}"}} 1.0\n' in found
