"""The gateway as a process: what it prints, what it obeys, how it ends."""

import json
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio_websocket import ConnectionClosed, WebSocketConnection

from tests.cli.process import Lines, Running, command, gateway, run, start
from trio_gateway.cli.checklist.probe import Site
from trio_gateway.client.target import Answer, Target


async def get(running: Running, path: str, token: str | None = None) -> Answer:
    """Make a request of a running gateway."""
    return await Target.parse(running.url).request("GET", path, token=token)


async def receive(connection: WebSocketConnection) -> Any:
    """Return the next frame."""
    return json.loads(await connection.get_message())


@asynccontextmanager
async def connect(
    running: Running, path: str = "/", **query: str
) -> AsyncGenerator[WebSocketConnection, None]:
    """Connect with trio-websocket, which leaves its socket open when the server closes first."""
    async with Site(Target.parse(running.url), None, "test").connect(path, **query) as talk:
        yield talk.connection


async def closed(connection: WebSocketConnection) -> tuple[int, str]:
    """Wait for the end of a connection; return the server's code and reason."""
    with suppress(ConnectionClosed):
        while True:
            await connection.get_message()
    assert connection.closed is not None
    return int(connection.closed.code), connection.closed.reason or ""


# What it prints.


@pytest.mark.parametrize("arguments", [(), ("serve",)])
async def test_it_says_where_it_listens(arguments: tuple[str, ...]) -> None:
    """One line with the real port; then it serves, and a token it made opens the API."""
    async with gateway(*arguments) as running:
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*", running.url)
        token = await running.token()
        assert (await get(running, "/readyz")).status == 200
        assert (await get(running, "/api/rooms/r/members", "another")).status == 401
        assert (await get(running, "/api/rooms/r/members", token)).status == 200
        assert await running.terminate() == 0
        assert await running.out.rest() == []


async def test_a_token_that_was_given_is_not_printed() -> None:
    """The start line stays alone, and the log does not have the token either."""
    async with gateway(env={"TRIO_GATEWAY_API_TOKEN": "s3cret-token"}) as running:
        assert (await get(running, "/api/rooms/r/members", "s3cret-token")).status == 200
        assert await running.terminate() == 0
        assert await running.out.rest() == []
        assert "s3cret-token" not in "\n".join(await running.err.rest())


async def test_elsewhere_than_on_loopback_no_token_is_made() -> None:
    """The API answers 403, and nothing but the start line is printed."""
    async with gateway("--host", "0.0.0.0") as running:
        assert running.url.startswith("http://0.0.0.0:")
        answer = await Target.parse(f"http://127.0.0.1:{running.port}").request(
            "POST", "/api/messages", body={}, token="t"
        )
        assert answer.status == 403
        assert await running.terminate() == 0
        assert await running.out.rest() == []


async def test_a_name_with_two_addresses_has_one_port() -> None:
    """localhost is 127.0.0.1, and ::1 where there is IPv6."""
    async with gateway("--host", "localhost") as running:
        assert running.url.startswith("http://localhost:")
        found = await trio.socket.getaddrinfo("localhost", running.port, type=socket.SOCK_STREAM)
        for family, *_, address in found:
            if family == socket.AF_INET6 and not _has_ipv6():
                continue
            with trio.socket.socket(family) as sock:
                await sock.connect(address)


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
        return True


async def test_port_is_a_variable_too() -> None:
    """$PORT, as platforms set it."""
    async with start(command(), {"PORT": "0"}) as running:
        line = await running.out.next()
        assert line is not None
        port = int(line.rpartition(":")[2])
        assert port not in (0, 3000)
        (await trio.open_tcp_stream("127.0.0.1", port)).socket.close()


async def test_nobody_needs_to_read_what_it_prints() -> None:
    """A broken stdout changes neither its life nor its exit status."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        async with start(command("--port", "0"), stdout=writing) as running:
            line = await running.err.until("serving")
            url = re.search(r"http://[0-9.:]+", line)
            assert url is not None
            assert (await Target.parse(url[0]).request("GET", "/healthz")).status == 200
            assert await running.terminate() == 0
            assert not any("Error" in line for line in await running.err.rest())
    finally:
        os.close(writing)


async def test_it_starts_without_a_stdout() -> None:
    """As a daemon may be started."""
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command("--port", "0")]
    async with start(shell) as running:
        await running.err.until("serving")
        assert await running.terminate() == 0


async def test_logs_can_be_json() -> None:
    """Each line of stderr is an object with the same fields."""
    async with gateway("--log-format", "json", env={"TRIO_GATEWAY_PROT": "1"}) as running:
        assert await running.terminate() == 0
        lines = [json.loads(line) for line in await running.err.rest()]
        events = [line["event"] for line in lines]
        assert ["serving", "environment variables without a meaning", "draining", "stopped"] == (
            events
        )
        assert lines[0]["urls"] == [running.url]
        assert lines[1]["names"] == ["TRIO_GATEWAY_PROT"]
        assert all({"timestamp", "level", "logger"} <= line.keys() for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_raises_its_limit_of_open_files() -> None:
    """The soft limit becomes the hard one: a connection is a descriptor."""
    shell = ["sh", "-c", 'ulimit -S -n 128; ulimit -H -n 512; exec "$@"', "sh"]
    async with start([*shell, *command("--port", "0", "--log-format", "json")]) as running:
        line = json.loads(await running.err.until("serving"))
        assert (128, 512) == (line["open_files_before"], line["open_files"])
        limits = await trio.Path(f"/proc/{running.process.pid}/limits").read_text()
        found = re.search(r"Max open files +(\d+) +(\d+)", limits)
        assert found is not None
        assert found.groups() == ("512", "512")


# What it obeys.


async def test_settings_reach_the_gateway(tmp_path: Path) -> None:
    """From a file, a variable and flags at once."""
    config = tmp_path / "gateway.toml"
    config.write_text('max-connections = 1\nallow-origin = ["https://a.example"]\nheartbeat = 99')
    arguments = ["--config", str(config), "--strict-paths", "--heartbeat", "7.5"]
    async with gateway(*arguments, env={"TRIO_GATEWAY_MAX_MESSAGE_SIZE": "100"}) as running:
        assert await _status(running, "/nowhere") == 404
        assert await _status(running, "/", origin="https://b.example") == 403
        async with connect(running) as connection:
            assert (await receive(connection))["heartbeat"] == 7.5
            assert await _status(running, "/", origin="https://a.example") == 503
            await connection.send_message("x" * 101)
            assert (await closed(connection))[0] == 1009


async def _status(running: Running, path: str, origin: str = "") -> int:
    """Return the status that an upgrade is answered with."""
    stream = await _upgrading(running, path, f"Origin: {origin}\r\n" if origin else "")
    async with stream:
        line = await Lines(stream).next()
        assert line is not None
        return int(line.split()[1])


async def _upgrading(running: Running, path: str = "/", header: str = "") -> trio.SocketStream:
    """Connect and ask for an upgrade."""
    stream = await trio.open_tcp_stream("127.0.0.1", running.port)
    request = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n{header}\r\n"
    )
    await stream.send_all(request.encode())
    return stream


async def test_without_the_page_there_is_the_rest() -> None:
    """--no-page: the files are nowhere, / speaks WebSocket only; health answers."""
    async with gateway("--no-page") as running:
        paths = ("/", "/gateway.js", "/page.js", "/healthz")
        assert [426, 404, 404, 200] == [(await get(running, path)).status for path in paths]


async def test_without_strict_paths_every_path_is_the_chat() -> None:
    """As the original application had it."""
    async with (
        gateway() as running,
        connect(running, "/any/where", room="r") as connection,
    ):
        assert (await receive(connection))["room"] == "r"


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start line says https, and HTTP and WebSocket are spoken over TLS."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    both = str(tmp_path / "both.pem")
    async with gateway("--tls-cert", both, "--tls-key", both) as running:
        assert re.fullmatch(r"https://127\.0\.0\.1:[0-9]+", running.url)
        assert (await get(running, "/healthz")).status == 200
        async with connect(running, user="ann") as connection:
            assert (await receive(connection))["user"] == "ann"
            running.process.send_signal(signal.SIGTERM)
            assert (await closed(connection))[0] == 1012
        assert await running.process.wait() == 0


# Unix sockets.


async def test_a_unix_socket(tmp_path: Path) -> None:
    """It stands instead of TCP, for owner and group, and goes with the gateway."""
    path = tmp_path / "gateway socket"
    async with gateway("--uds", str(path)) as running:
        assert running.url == "http+unix://" + str(path).replace("/", "%2F").replace(" ", "%20")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        token = await running.token()
        assert (await get(running, "/api/rooms/r/members", token)).status == 200
        assert await running.terminate() == 0
        assert not path.exists()


async def test_a_unix_socket_beside_a_port(tmp_path: Path) -> None:
    """Both are in the start line, the port first, and both serve the same."""
    path = tmp_path / "s"
    async with start(command("--uds", str(path), "--port", "0")) as running:
        line = await running.out.next()
        assert line is not None
        urls = line.removeprefix("listening on ").split()
        assert ["http", "http+unix"] == [url.partition(":")[0] for url in urls]
        for url in urls:
            assert (await Target.parse(url).request("GET", "/healthz")).status == 200


async def test_a_stale_unix_socket_makes_way(tmp_path: Path) -> None:
    """What a killed gateway leaves behind hinders nobody; a living one's socket is its own."""
    path = tmp_path / "s"
    async with gateway("--uds", str(path)) as running:
        running.process.kill()
        await running.process.wait()
        assert path.exists()
    async with gateway("--uds", str(path)) as running:
        ended = await run("--uds", str(path))
        assert (2, 1) == (ended.status, len(ended.err))
        assert (await get(running, "/healthz")).status == 200


async def test_a_successor_keeps_its_socket(tmp_path: Path) -> None:
    """A gateway that ends removes its own file, not the one that stands in its place."""
    path = tmp_path / "s"
    async with gateway("--uds", str(path)) as running:
        path.unlink()
        path.write_text("another's")
        assert await running.terminate() == 0
    assert path.read_text() == "another's"


# How it ends.


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(signum: signal.Signals) -> None:
    """Clients get 1012 and when to come back; the exit status is 0."""
    async with gateway() as running:
        async with connect(running) as connection:
            await connection.get_message()
            running.process.send_signal(signum)
            code, reason = await closed(connection)
            assert code == 1012
            assert re.fullmatch(r"retry [0-9]+", reason)
        assert await running.process.wait() == 0
        assert "Traceback" not in "\n".join(await running.err.rest())


async def _until(stream: trio.SocketStream, data: bytes) -> None:
    received = b""
    while data not in received:
        more = await stream.receive_some()
        assert more, received
        received += more


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(second: signal.Signals) -> None:
    """A drain that a deaf client holds up is ended; the exit status is 0."""
    async with gateway("--grace", "1000") as running:
        stream = await _upgrading(running)  # a client that answers no Close
        await _until(stream, b'"joined"')
        running.process.send_signal(signal.SIGTERM)
        await _until(stream, b"retry ")
        await running.err.until("draining")
        assert await running.terminate(second) == 0
        await stream.aclose()
        err = await running.err.rest()
        assert "stopping" in err[0]
        assert "Traceback" not in "\n".join(err)


async def test_a_grace_period_ends() -> None:
    """What is left then is ended hard; the exit status is 0."""
    async with gateway("--grace", "0.2") as running:
        stream = await _upgrading(running)  # a client that answers no Close
        await _until(stream, b'"joined"')
        assert await running.terminate() == 0
        await stream.aclose()


async def test_a_signal_on_the_way_up_is_obeyed() -> None:
    """Whatever it was doing when the signal came, the process ends."""
    async with start(command("--port", "0")) as running:
        lines = Lines(running.err.stream)
        running.process.send_signal(signal.SIGTERM)
        status = await running.process.wait()
        # Before Python runs our code, a signal ends the process the system's way.
        assert status in (0, -signal.SIGTERM)
        assert "Traceback" not in "\n".join(await lines.rest())
