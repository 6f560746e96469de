"""``notify``: one notification, one line, an exit status."""

import json

import pytest
import trio

from tests.cli.process import gateway, run, run_here, taken_port
from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.cli.checklist.probe import Site
from trio_gateway.client.target import Target
from trio_gateway.hub.memory import MemoryBroker


async def test_it_delivers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The user who is connected gets it; flags and variables name gateway and token."""
    async with gateway() as running:
        token = await running.token()
        site = Site(Target.parse(running.url), token, "test")
        async with site.connect("/notifications/ws", user="ann") as ann:
            welcome = await ann.expect("welcome", user="ann")
            arguments = ["--body", "B", "--url", running.url, "--token", token]
            ended = await run("notify", "ann", "a title", *arguments)
            line = f"stored at {welcome['position']['epoch']}:1"
            assert (0, [line], []) == (ended.status, ended.out, ended.err)
            await ann.expect("notification", offset=1, title="a title", body="B")
            env = {"TRIO_GATEWAY_URL": running.url, "TRIO_GATEWAY_API_TOKEN": token}
            for name, value in env.items():
                monkeypatch.setenv(name, value)
            ended = await run_here(capfd, "notify", "ann", "another")
            assert (0, []) == (ended.status, ended.err)
            await ann.expect("notification", offset=2, title="another", body="")


Capture = pytest.CaptureFixture[str]


async def test_a_refusal_is_one_line(nursery: trio.Nursery, capfd: Capture) -> None:
    """What the gateway says is passed on; status 1."""
    application = Application(MemoryBroker(), ApplicationSettings(api_token="right"))
    served = application.gateway(await trio.open_tcp_listeners(0, host="127.0.0.1"))
    await nursery.start(served.run)
    url = f"http://127.0.0.1:{served.port}"
    for arguments, reason in (
        (["ann", "hi", "--token", "wrong"], "answered invalid_token: this is not the API token"),
        (["ann", "", "--token", "right"], "answered invalid_field: title "),
    ):
        ended = await run_here(capfd, "notify", *arguments, "--url", url)
        assert (1, [], 1) == (ended.status, ended.out, len(ended.err))
        assert f"trio-gateway: not sent: {url} {reason}" in ended.err[0]
    await served.drain()


async def test_nobody_there_is_one_line(capfd: Capture) -> None:
    """Status 1."""
    with taken_port() as port:
        pass
    url = f"http://127.0.0.1:{port}"
    ended = await run_here(capfd, "notify", "ann", "hi", "--token", "t", "--url", url)
    line = f"trio-gateway: not sent: {url}: Connection refused"
    assert (1, [], [line]) == (ended.status, ended.out, ended.err)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2/\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_another_server_is_one_line(
    nursery: trio.Nursery, capfd: Capture, answer: bytes
) -> None:
    """Whatever answers there; status 1."""
    requests: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        requests.append(await stream.receive_some())
        await stream.send_all(answer)
        await stream.aclose()

    listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/below/"
    ended = await run_here(capfd, "notify", "ann", "hi", "--token", "t", "--url", url)
    assert (1, [], 1) == (ended.status, ended.out, len(ended.err))
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /below/api/notifications HTTP/1.1\r\n")
    posted = json.loads(body)
    assert posted == {"to": "ann", "title": "hi", "key": posted["key"]}
    nursery.cancel_scope.cancel()
