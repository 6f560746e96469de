"""Publishing over HTTP: once, whatever breaks, and refusals as they are."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.client.site import refusal
from trio_gateway.client import (
    CommandRefused,
    NotAcknowledged,
    NotAGateway,
    Position,
    publish_message,
    publish_notification,
)

STORED = refusal(201, body='{"offset": 3, "epoch": "e"}')


def never(low: float, high: float) -> float:
    """Draw no wait at all."""
    return 0.0


class Api:
    """Gives raw answers and notes what was posted."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.posted: list[tuple[str, dict[str, object]]] = []
        self.url = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith(b"}"):
            data += await stream.receive_some()
        head, _, body = data.partition(b"\r\n\r\n")
        self.posted.append((head.split(b"\r\n")[0].decode(), json.loads(body)))
        async with stream:
            await stream.send_all(self.answers.pop(0))


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncGenerator[Api, None]:
    """Serve an API on a real socket."""
    api = Api(list(answers))
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, api.serve, 0)
        api.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/below"
        yield api
        nursery.cancel_scope.cancel()


async def test_it_is_stored_once() -> None:
    """One key for all attempts: a lost answer, a 503 and a 429 are tried again."""
    async with answering(
        b"", refusal(503, "Retry-After: 0\r\n"), refusal(429), b"HTTP/1.1 201", STORED
    ) as api:
        position = await publish_notification(
            api.url, "t", to="ann", title="T", data={"x": 1}, uniform=never
        )
        assert Position("e", 3) == position
        lines = {line for line, _ in api.posted}
        assert {"POST /below/api/notifications HTTP/1.1"} == lines
        (body,) = {json.dumps(body) for _, body in api.posted}
        key = json.loads(body)["key"]
        assert {"to": "ann", "title": "T", "data": {"x": 1}, "key": key} == json.loads(body)


async def test_a_message_has_the_callers_key() -> None:
    """So that another process can try again too."""
    async with answering(STORED) as api:
        await publish_message(api.url, "t", room="r", user="bob", text="hi", key="k")
        body = {"room": "r", "user": "bob", "text": "hi", "key": "k"}
        assert [("POST /below/api/messages HTTP/1.1", body)] == api.posted


async def test_a_refusal_is_not_tried_again() -> None:
    """It has the API's code and sentence."""
    body = '{"error": "unauthorized", "message": "no"}'
    async with answering(refusal(401, body=body)) as api:
        with pytest.raises(CommandRefused) as refused:
            await publish_notification(api.url, "t", to="ann", title="T")
        assert ("unauthorized", "no") == (refused.value.code, refused.value.message)


@pytest.mark.parametrize("answer", [refusal(201, body="[]"), refusal(302), refusal(404)])
async def test_another_server_is_no_gateway(answer: bytes) -> None:
    """An answer that the API never gives is not tried again."""
    async with answering(answer) as api:
        with pytest.raises(NotAGateway):
            await publish_notification(api.url, "t", to="ann", title="T")


async def test_attempts_end() -> None:
    """With the key to try again with, and the last reason."""
    async with answering(b"", refusal(503, body='{"message": "down"}')) as api:
        with pytest.raises(NotAcknowledged) as given_up:
            await publish_notification(api.url, "t", to="ann", title="T", attempts=2, uniform=never)
        assert "answered 503: down" == given_up.value.why
        assert {given_up.value.key} == {body["key"] for _, body in api.posted}
