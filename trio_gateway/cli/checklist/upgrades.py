"""A socket is upgraded at most once, and after the 101 it speaks no HTTP any more.

This is what the gateway exists for: two servers on one port that both upgrade a socket.
"""

from trio_gateway.cli.checklist.probe import Check, Site, require
from trio_gateway.cli.checklist.wire import CLOSE, TEXT, RawClient, RawFrame, Request, close_code

_CHAT, _NOTIFICATIONS = "/", "/notifications/ws"


def _request(site: Site, path: str) -> Request:
    return Request.make(site, path, user=site.name("raw"), room=site.name("raw"))


def _require_protocol_error(frames: list[RawFrame]) -> None:
    """The second request is no frame, so the connection is failed (RFC 6455 §5.2, §7.1.7)."""
    require(bool(frames) and frames[-1].opcode == CLOSE, "a request for a frame: no Close came")
    code = close_code(frames[-1])
    require(code == 1002, f"a request for a frame was closed with {code}, not 1002")


async def _pipelined(site: Site) -> str:
    for first, second in ((_CHAT, _NOTIFICATIONS), (_NOTIFICATIONS, _CHAT), (_CHAT, _CHAT)):
        request = _request(site, first)
        async with site.target.stream() as stream:
            client = RawClient(stream)
            await stream.send_all(request.head + _request(site, second).head)
            await client.upgraded(request)
            _require_protocol_error(await client.rest())
    return "one 101 for two requests in one packet, then frames only"


async def _late(site: Site) -> str:
    for first, second in ((_CHAT, _NOTIFICATIONS), (_NOTIFICATIONS, _CHAT)):
        request = _request(site, first)
        async with site.target.stream() as stream:
            client = RawClient(stream)
            await stream.send_all(request.head)
            await client.upgraded(request)
            welcome = await client.frame()
            require(welcome is not None and welcome.opcode == TEXT, "there was no welcome")
            await stream.send_all(_request(site, second).head)
            _require_protocol_error(await client.rest())
    return "no HTTP to a request after the 101"


async def _early_frames(site: Site) -> str:
    """What a client sends right behind its request is the connection's, and is not lost."""
    request = _request(site, _CHAT)
    async with site.target.stream() as stream:
        client = RawClient(stream)
        await stream.send_all(request.head)
        await client.send_frame(TEXT, b'{"type":"members","room":"early","id":"early"}')
        await client.upgraded(request)
        while (frame := await client.frame()) is not None:
            if b'"id":"early"' in frame.payload:
                return "a frame right behind the request is answered"
    require(False, "the stream ended without an answer to the early frame")
    raise AssertionError


async def _closes(site: Site) -> str:
    for path in (_CHAT, _NOTIFICATIONS):
        request = _request(site, path)
        async with site.target.stream() as stream:
            client = RawClient(stream)
            await stream.send_all(request.head)
            await client.upgraded(request)
            await client.send_frame(CLOSE, (1000).to_bytes(2, "big"))
            frames = await client.rest()
            require(bool(frames) and frames[-1].opcode == CLOSE, "a Close was not answered")
            code = close_code(frames[-1])
            require(code == 1000, f"a Close with 1000 was answered with {code}")
    return "a Close is answered with its code, then the socket ends"


CHECKS = (
    Check("no duplicate upgrade, pipelined", _pipelined),
    Check("no duplicate upgrade, after the 101", _late),
    Check("early frames are kept", _early_frames),
    Check("a close is clean", _closes),
)
