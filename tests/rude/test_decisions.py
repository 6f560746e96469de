"""An upgrade is spent once: whatever a handler tries, its client sees one answer."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from tests.rude.peer import TEXT, Frame, Peer, handshake, text
from tests.rude.site import GUARD, PATIENT, Serve, until
from trio_gateway import (
    InvalidResponse,
    Timeouts,
    Upgrade,
    UpgradeAbandoned,
    UpgradeAlreadyDecided,
    UpgradeState,
)

over_each = pytest.mark.parametrize("transport", ["tcp", "tls", "unix"], indirect=True)

Act = Callable[[Upgrade], Awaitable[object]]


async def accepts(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    await connection.send_message("accepted")


async def rejects(upgrade: Upgrade) -> None:
    await upgrade.reject(409, body=b"rejected")


async def rejects_otherwise(upgrade: Upgrade) -> None:
    await upgrade.reject(403, extra_headers=[(b"X-Second", b"yes")])


async def check_accepted(peer: Peer) -> None:
    """One 101, one message, and the Close of a handler that has returned."""
    assert (await peer.answer()).status == 101
    message, close = await peer.frames()
    assert message == Frame(TEXT, b"accepted")
    assert close.code == 1000


async def check_rejected(peer: Peer) -> None:
    """One answer and nothing behind it."""
    answer = await peer.answer()
    assert (409, b"rejected") == (answer.status, answer.body)
    assert await peer.rest() == b""


Check = Callable[[Peer], Awaitable[None]]

DOUBLE: dict[str, tuple[Act, Act, Check, UpgradeState]] = {
    "accept twice": (accepts, accepts, check_accepted, UpgradeState.ACCEPTED),
    "reject after accept": (accepts, rejects_otherwise, check_accepted, UpgradeState.ACCEPTED),
    "accept after reject": (rejects, accepts, check_rejected, UpgradeState.REJECTED),
    "reject twice": (rejects, rejects_otherwise, check_rejected, UpgradeState.REJECTED),
}


@over_each
@pytest.mark.parametrize("first, second, check, state", DOUBLE.values(), ids=DOUBLE.keys())
async def test_a_second_decision_raises_in_the_handler_alone(
    serve: Serve, first: Act, second: Act, check: Check, state: UpgradeState
) -> None:
    """The first decision stands; the second writes no byte and names what stands."""
    seen = list[UpgradeState]()

    async def handler(upgrade: Upgrade) -> None:
        await first(upgrade)
        with pytest.raises(UpgradeAlreadyDecided, match="upgraded at most once") as raised:
            await second(upgrade)
        seen.append(raised.value.state)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            await check(peer)
    await site.settle()
    assert seen == [state]
    assert site.now.duplicate_upgrades_prevented == 1
    assert not site.now.handler_failures


@pytest.mark.parametrize("first, second, check, state", DOUBLE.values(), ids=DOUBLE.keys())
async def test_a_second_decision_that_nobody_catches(
    serve: Serve, first: Act, second: Act, check: Check, state: UpgradeState
) -> None:
    """It is a failure of the handler: 1011 after a 101, nothing more after a refusal."""

    async def handler(upgrade: Upgrade) -> None:
        await first(upgrade)
        await second(upgrade)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            if state is UpgradeState.REJECTED:
                await check(peer)
            else:
                assert (await peer.answer()).status == 101
                message, close = await peer.frames()
                assert message == Frame(TEXT, b"accepted")
                assert close.code == 1011
    await site.settle()
    assert site.now.handler_failures == 1


@pytest.mark.parametrize(
    "acts",
    [(accepts, accepts), (accepts, rejects), (rejects, accepts), (rejects, rejects)],
    ids=["accept accept", "accept reject", "reject accept", "reject reject"],
)
async def test_decisions_race_in_two_tasks(serve: Serve, acts: tuple[Act, Act]) -> None:
    """One task wins, whichever; the other one raises; the client sees one answer."""
    raised = list[UpgradeAlreadyDecided]()

    async def attempt(act: Act, upgrade: Upgrade) -> None:
        try:
            await act(upgrade)
        except UpgradeAlreadyDecided as error:
            raised.append(error)

    async def handler(upgrade: Upgrade) -> None:
        async with trio.open_nursery() as nursery:
            for act in acts:
                nursery.start_soon(attempt, act, upgrade)

    site = await serve(handler)
    for _ in range(8):
        raised.clear()
        with trio.fail_after(GUARD):
            async with await site.connect() as peer:
                await peer.send(handshake())
                await trio.testing.wait_all_tasks_blocked()
                (loser,) = raised
                if loser.state is UpgradeState.ACCEPTED:
                    await check_accepted(peer)
                else:
                    await check_rejected(peer)
    await site.settle()
    assert site.now.duplicate_upgrades_prevented == 8


CHAT = b"Sec-WebSocket-Protocol: chat, superchat"


def accepting(**arguments: Any) -> Act:
    return lambda upgrade: upgrade.accept(**arguments)


def rejecting(*status: Any, **arguments: Any) -> Act:
    return lambda upgrade: upgrade.reject(*status, **arguments)


UNSENDABLE: dict[str, Act] = {
    "subprotocol not offered": accepting(subprotocol="telnet"),
    "subprotocol in the wrong case": accepting(subprotocol="Chat"),
    "empty subprotocol": accepting(subprotocol=""),
    "subprotocol as bytes": accepting(subprotocol=b"chat"),
    "subprotocol with CR LF": accepting(subprotocol="chat\r\nX-Evil: yes"),
    "CR LF in a value": accepting(extra_headers=[(b"X-Name", b"a\r\nX-Evil: yes")]),
    "LF in a value": accepting(extra_headers=[(b"X-Name", b"a\nX-Evil: yes")]),
    "CR in a value": accepting(extra_headers=[(b"X-Name", b"a\rb")]),
    "NUL in a value": accepting(extra_headers=[(b"X-Name", b"a\0b")]),
    "CR LF in a name": accepting(extra_headers=[(b"X-Evil: yes\r\nX-Name", b"a")]),
    "empty name": accepting(extra_headers=[(b"", b"a")]),
    "space in a name": accepting(extra_headers=[(b"X Name", b"a")]),
    "text instead of bytes": accepting(extra_headers=[("X-Name", "a")]),
    "Upgrade": accepting(extra_headers=[(b"Upgrade", b"h2c")]),
    "Connection": accepting(extra_headers=[(b"connection", b"close")]),
    "Content-Length": accepting(extra_headers=[(b"Content-Length", b"5")]),
    "Transfer-Encoding": accepting(extra_headers=[(b"Transfer-Encoding", b"chunked")]),
    "Sec-WebSocket-Accept": accepting(extra_headers=[(b"Sec-WebSocket-Accept", b"x")]),
    "Sec-WebSocket-Extensions": accepting(
        extra_headers=[(b"Sec-WebSocket-Extensions", b"permessage-deflate")]
    ),
    "Sec-WebSocket-Protocol": accepting(extra_headers=[(b"Sec-WebSocket-Protocol", b"chat")]),
    "reject with 100": rejecting(100),
    "reject with 101": rejecting(101),
    "reject with 199": rejecting(199),
    "reject with 600": rejecting(600),
    "reject with 0": rejecting(0),
    "reject with -1": rejecting(-1),
    "reject with a word": rejecting("404"),
    "reject with True": rejecting(True),
    "reject with CR LF": rejecting(403, extra_headers=[(b"Location", b"/\r\nX-Evil: yes")]),
    "reject with a length": rejecting(403, extra_headers=[(b"Content-Length", b"5")]),
    "reject with chunks": rejecting(403, extra_headers=[(b"Transfer-Encoding", b"chunked")]),
    "reject with Connection": rejecting(403, extra_headers=[(b"Connection", b"Upgrade")]),
    "reject with a text body": rejecting(403, body="forbidden"),
}


@pytest.mark.parametrize("act", UNSENDABLE.values(), ids=UNSENDABLE.keys())
async def test_an_answer_that_may_not_be_sent_is_not(serve: Serve, act: Act) -> None:
    """The caller is told, no byte is written, and the token is still unspent."""

    async def handler(upgrade: Upgrade) -> None:
        with pytest.raises(InvalidResponse):
            await act(upgrade)
        assert upgrade.state is UpgradeState.PENDING
        await upgrade.accept(subprotocol="superchat", extra_headers=[(b"X-Name", b"caf\xe9\t")])

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            answer = await peer.upgrade("/", CHAT)
            assert answer.headers["sec-websocket-protocol"] == "superchat"
            assert answer.headers["x-name"] == "café\t"
            assert "x-evil" not in answer.headers
            (close,) = await peer.frames()
            assert close.code == 1000
    await site.settle()
    assert not site.now.handler_failures


@pytest.mark.parametrize("name", ["reject with 101", "CR LF in a value"])
async def test_an_answer_that_may_not_be_sent_and_nobody_catches(serve: Serve, name: str) -> None:
    """The handler failed before it decided: 500."""

    async def handler(upgrade: Upgrade) -> None:
        await UNSENDABLE[name](upgrade)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            answer = await peer.answer()
            assert (500, "handler_failed") == (answer.status, answer.error)
            assert await peer.rest() == b""
    await site.settle()


REJECTIONS: dict[str, tuple[Act, int, bytes | None]] = {
    "bare": (rejecting(403), 403, None),
    "with a body": (rejecting(418, body=b"tea?"), 418, b"tea?"),
    "with an empty body": (rejecting(400, body=b""), 400, b""),
    "without a possible body": (rejecting(204, body=b"x"), 204, b""),
    "with an unknown status": (rejecting(599), 599, None),
    "redirect": (rejecting(308, extra_headers=[(b"Location", b"/there")]), 308, None),
}


@over_each
@pytest.mark.parametrize("act, status, body", REJECTIONS.values(), ids=REJECTIONS.keys())
async def test_a_rejection_ends_the_socket_itself(
    serve: Serve, act: Act, status: int, body: bytes | None
) -> None:
    """The gateway hangs up; the client need not."""

    async def handler(upgrade: Upgrade) -> None:
        await act(upgrade)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            answer = await peer.answer()
            assert status == answer.status
            assert answer.headers["connection"] == "close"
            if body is None:
                assert answer.error
            else:
                assert body == answer.body
            assert await peer.rest() == b""
    await site.settle()


async def test_a_rejected_client_that_does_not_hang_up(serve: Serve) -> None:
    """It holds its socket for ``linger_timeout``, not until it feels like going."""
    site = await serve(rejects, timeouts=Timeouts(linger_timeout=0.1))
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            await check_rejected(peer)
            await until(lambda: not site.now.sockets)
    await site.settle()


@over_each
async def test_a_handler_that_never_decides(serve: Serve) -> None:
    """Returning without a word: 500."""

    async def handler(upgrade: Upgrade) -> None:
        await trio.lowlevel.checkpoint()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            answer = await peer.answer()
            assert (500, "undecided") == (answer.status, answer.error)
            assert await peer.rest() == b""
    await site.settle()


HASTY = Timeouts(decision_timeout=0.1)


async def hangs(upgrade: Upgrade) -> None:
    await trio.sleep_forever()


@over_each
async def test_a_handler_that_hangs_before_it_decides(serve: Serve) -> None:
    """After ``decision_timeout``: 503 with Retry-After, and the handler is cancelled."""
    site = await serve(hangs, timeouts=HASTY)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            answer = await peer.answer()
            assert (503, "decision_timeout") == (answer.status, answer.error)
            assert int(answer.headers["retry-after"]) > 0
            assert await peer.rest() == b""
    await site.settle()


@over_each
async def test_a_decision_that_comes_too_late(serve: Serve) -> None:
    """A handler that shields itself finds its upgrade decided; the client sees the 503 alone."""
    late = list[UpgradeState]()

    async def handler(upgrade: Upgrade) -> None:
        with trio.CancelScope(shield=True):
            await until(lambda: upgrade.state is not UpgradeState.PENDING)
            with pytest.raises(UpgradeAlreadyDecided) as raised:
                await upgrade.accept()
            late.append(raised.value.state)

    site = await serve(handler, timeouts=HASTY)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            assert (await peer.answer()).status == 503
            assert await peer.rest() == b""
    await site.settle()
    assert late == [UpgradeState.REJECTED]


@pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)
@pytest.mark.parametrize("act", [accepts, rejects])
async def test_a_decision_after_the_peer_is_gone(serve: Serve, act: Act) -> None:
    """It raises ``UpgradeAbandoned``, which is a ConnectionClosed; addresses are still told."""
    seen = list[str]()
    gone = trio.Event()

    async def handler(upgrade: Upgrade) -> None:
        await gone.wait()
        seen.extend([str(upgrade.remote), str(upgrade.local)])
        with pytest.raises(UpgradeAbandoned) as raised:
            await act(upgrade)
        assert isinstance(raised.value, ConnectionClosed)
        seen.extend([str(upgrade.remote), str(upgrade.local)])

    site = await serve(handler)
    with trio.fail_after(GUARD):
        peer = await site.connect()
        await peer.send(handshake())
        await trio.testing.wait_all_tasks_blocked()
        await peer.reset()
        await until(lambda: site.now.upgrades_abandoned)
        gone.set()
    await site.settle()
    remote, local, *later = seen
    assert later == [remote, local]
    assert not site.now.handler_failures


@over_each
async def test_a_decision_just_as_the_peer_resets(serve: Serve) -> None:
    """The RST is there and nobody has read it yet: the 101 goes nowhere and nothing breaks."""
    decide = trio.Event()
    ended = list[str]()

    async def handler(upgrade: Upgrade) -> None:
        await decide.wait()
        try:
            connection = await upgrade.accept()
            await connection.get_message()
        except ConnectionClosed:
            ended.append(str(upgrade.remote))

    site = await serve(handler)
    for _ in range(4):
        decide = trio.Event()
        with trio.fail_after(GUARD):
            peer = await site.connect()
            await peer.send(handshake())
            await trio.testing.wait_all_tasks_blocked()
            decide.set()
            await peer.reset()
    await site.settle()
    assert len(ended) == 4
    assert not site.now.handler_failures


@pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)
async def test_a_handler_that_hangs_after_its_peer_is_gone(serve: Serve) -> None:
    """Nothing can come of its decision any more, so ``decision_timeout`` ends it too."""
    site = await serve(hangs, timeouts=HASTY)
    with trio.fail_after(GUARD):
        peer = await site.connect()
        await peer.send(handshake())
        await trio.testing.wait_all_tasks_blocked()
        await peer.reset()
    await site.settle()


async def test_a_cancelled_decision_is_none(serve: Serve) -> None:
    """``accept()`` cancelled before it began has written nothing; the next one counts."""

    async def handler(upgrade: Upgrade) -> None:
        for act in (accepting(), rejecting(403)):
            with trio.CancelScope() as scope:
                scope.cancel()
                await act(upgrade)
            assert scope.cancelled_caught
            assert upgrade.state is UpgradeState.PENDING
        await accepts(upgrade)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            await check_accepted(peer)
    await site.settle()


@over_each
async def test_addresses_on_every_transport(serve: Serve) -> None:
    """``remote`` and ``local`` never raise: text where there is no port, and after an RST too."""
    seen = list[str]()

    async def handler(upgrade: Upgrade) -> None:
        seen.extend([str(upgrade.remote), str(upgrade.local)])
        connection = await upgrade.accept()
        seen.extend([str(connection.remote), str(connection.local)])
        with pytest.raises(ConnectionClosed):
            await connection.get_message()
        seen.extend([str(connection.remote), str(upgrade.remote)])
        assert str(connection.local)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        peer = await site.connect()
        await peer.upgrade()
        own = peer.socket.getsockname()
        await peer.reset()
    await site.settle()
    if isinstance(own, tuple):
        assert all(f"port={own[1]}" in address for address in (seen[0], seen[2], *seen[4:]))
        assert all(f"port={site.address[1]}" in address for address in (seen[1], seen[3]))
    else:
        assert seen[0] == seen[2] == "unix:"
        assert seen[1] == seen[3] == f"unix:{site.address}"


async def test_a_message_right_behind_the_decision_is_heard(serve: Serve) -> None:
    """The losing task of a race does not disturb the winner's conversation."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        with pytest.raises(UpgradeAlreadyDecided):
            await upgrade.reject(500)
        await connection.send_message(await connection.get_message())

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade(behind=text("hello"))
            message, close = await peer.frames()
            assert message == Frame(TEXT, b"hello")
            assert close.code == 1000
    await site.settle()


def test_the_patient_timeouts_outlast_the_guard() -> None:
    """A test that passes has not been helped by a deadline of the gateway."""
    assert min(PATIENT.linger_timeout, PATIENT.closing_timeout) > GUARD
