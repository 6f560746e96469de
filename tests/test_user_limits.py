"""Connections of a user, counted by the gateway for whoever asks it who that is."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionRejected

from tests.handshake.heads import handshake
from trio_gateway import Limits, Refusal, Upgrade
from trio_gateway.handshake.authentication import Identity
from trio_gateway.testing import MemoryStream, open_gateway

LIMITS = Limits(max_connections_per_user=2)


async def by_query(upgrade: Upgrade) -> Identity | Refusal:
    return Identity(upgrade.query["user"])


async def greet(upgrade: Upgrade) -> None:
    """A handler of one's own: ask who it is, twice, and serve."""
    for _ in range(2):
        identity = await upgrade.identify(by_query)
        if isinstance(identity, Refusal):
            await upgrade.reject(identity.status, extra_headers=[(b"Retry-After", b"5")])
            return
    if "fail" in upgrade.query:
        raise RuntimeError("no")
    connection = await upgrade.accept()
    async for _ in connection:
        pass


async def test_a_user_has_so_many_connections(autojump_clock: MockClock) -> None:
    """One more is 429 for that user alone; asking again takes no second place."""
    async with open_gateway(greet, limits=LIMITS) as server:
        connect = server.open_websocket
        async with connect("/?user=ann"), connect("/?user=bob"):
            async with connect("/?user=ann"):
                with pytest.raises(ConnectionRejected) as caught:
                    async with connect("/?user=ann"):
                        pass
                assert 429 == caught.value.status_code
            async with connect("/?user=ann"):
                pass
        assert {"too_many_connections_per_user": 1} == server.gateway.statistics().limited


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "fail", "stop", "reset"]), st.integers(0, 7)),
        max_size=25,
    )
)
def test_places_cannot_leak(program: list[tuple[str, int]]) -> None:
    """Users come and go, politely or not, and handlers fail: who holds a place is connected."""
    trio.run(live_through, program, clock=MockClock(autojump_threshold=0))


async def live_through(program: list[tuple[str, int]]) -> None:
    async with open_gateway(greet, limits=LIMITS) as server:
        present: list[tuple[MemoryStream, str]] = []
        for deed, number in program:
            user = "abc"[number % 3]
            if deed in {"come", "fail"}:
                stream = await server.connect()
                target = f"/?user={user}" + ("&fail" if deed == "fail" else "")
                await stream.send_all(handshake(target=target))
                await wait_all_tasks_blocked()
                status = bytes(await stream.receive_some())[9:12]
                full = sum(whose == user for _, whose in present) >= 2
                assert (b"429" if full else b"500" if deed == "fail" else b"101") == status
                if status == b"101":
                    present.append((stream, user))
                else:
                    await stream.aclose()
            elif present:
                stream, _ = present.pop(number % len(present))
                if deed == "reset":
                    stream.send_stream.reset()
                await stream.aclose()
            await wait_all_tasks_blocked()
        for stream, _ in present:
            await stream.aclose()
        await wait_all_tasks_blocked()
        admission = server.gateway._reception.admission
        assert (0, 0) == (admission.connections, admission.handshakes)
        assert {"": 0} == admission._users or not admission._users
