"""HAProxy and nginx in front of the gateway; skipped, and said so, where they are not installed."""

import shutil
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionRejected, open_websocket_url, wrap_client_stream

from tests.peers.gateway import GUARD, Certificates
from trio_gateway import Gateway, Limits, Upgrade, serve_websocket
from trio_gateway.settings import Proxies

CLIENT = "127.0.0.2"  # another address of this machine, for the proxy to tell of
PROXY = "127.0.0.1"
HAPROXY = """
defaults
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    timeout tunnel 20s
frontend here
    mode {mode}
    bind {proxy}:{port}
    default_backend gateway
backend gateway
    mode {mode}
    {options}
    server gateway {proxy}:{gateway} {server}
"""
NGINX = """
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen {proxy}:{port};
        location / {{
            proxy_pass http://{proxy}:{gateway};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Host $http_host;
        }}
    }}
}}
"""


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((PROXY, 0))
        return int(sock.getsockname()[1])


async def tell(upgrade: Upgrade) -> None:
    """Tell a client who it is, and send back what it says."""
    connection = await upgrade.accept()
    await connection.send_message(f"{upgrade.client_address} {upgrade.head.host}")
    async for message in connection:
        await connection.send_message(message)


@asynccontextmanager
async def running(command: Sequence[str], port: int) -> AsyncGenerator[None]:
    """Run a proxy until the end of the block; it accepts on ``port`` when that begins."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.run_process, command, check=False))
        with trio.fail_after(GUARD):
            while True:
                try:
                    await trio.aclose_forcefully(await trio.open_tcp_stream(PROXY, port))
                    break
                except OSError:
                    await trio.sleep(0.02)
        yield
        nursery.cancel_scope.cancel()


async def ask(
    port: int, *headers: tuple[bytes, bytes], context: ssl.SSLContext | None = None
) -> str:
    """Connect from ``CLIENT`` through the proxy, talk, and return who one is told to be."""
    plain = await trio.open_tcp_stream(PROXY, port, local_address=CLIENT)
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
    if context is not None:
        stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
    with trio.fail_after(GUARD):
        async with plain, trio.open_nursery() as nursery:
            connection = await wrap_client_stream(
                nursery, stream, "chat.test", "/", extra_headers=list(headers)
            )
            told = await connection.get_message()
            for message in ("hello", b"\0" * 100_000):
                await connection.send_message(message)
                assert message == await connection.get_message()
            await connection.aclose()
    assert isinstance(told, str)
    return told


async def serve(
    nursery: trio.Nursery, proxies: Proxies, context: ssl.SSLContext | None = None
) -> Gateway:
    gateway: Gateway = await nursery.start(
        partial(
            serve_websocket,
            tell,
            PROXY,
            0,
            context,
            proxies=proxies,
            limits=Limits(max_connections_per_ip=1),
        )
    )
    return gateway


Configure = Callable[..., tuple[list[str], int]]


@pytest.fixture
def haproxy(tmp_path: Path) -> Configure:
    """Writes a configuration; returns the command and the port."""
    found = program("haproxy")

    def configure(gateway: Gateway, mode: str, options: str, server: str) -> tuple[list[str], int]:
        port, file = free_port(), tmp_path / "haproxy.cfg"
        file.write_text(
            HAPROXY.format(
                mode=mode,
                options=options,
                server=server,
                proxy=PROXY,
                port=port,
                gateway=gateway.port,
            )
        )
        return [found, "-q", "-db", "-f", str(file)], port

    return configure


async def test_haproxy_speaks_the_proxy_protocol(
    nursery: trio.Nursery, haproxy: Configure, certificates: Certificates, tls: bool
) -> None:
    """Below TLS too, which goes through to us; its own checks are LOCAL and take no place."""
    gateway = await serve(nursery, Proxies(protocol=True), certificates.server if tls else None)
    server = "send-proxy-v2 check check-send-proxy inter 50ms"
    command, port = haproxy(gateway, "tcp", "", server)
    async with running(command, port):
        context = certificates.client if tls else None
        for _ in range(2):
            assert f"{CLIENT} chat.test" == await ask(port, context=context)
    with trio.fail_after(GUARD):
        while gateway.statistics().sockets:  # noqa: ASYNC110  # nothing tells of it
            await trio.sleep(0.01)
    assert (2, 0) == (gateway.statistics().upgrades_accepted, gateway.statistics().handler_failures)
    nursery.cancel_scope.cancel()


async def test_haproxy_writes_x_forwarded_for(nursery: trio.Nursery, haproxy: Configure) -> None:
    """What a client claims stands left of what HAProxy saw, or contradicts it."""
    gateway = await serve(nursery, Proxies(trusted=(PROXY,)))
    command, port = haproxy(gateway, "http", "option forwardfor", "")
    async with running(command, port):
        assert f"{CLIENT} chat.test" == await ask(port)
        assert f"{CLIENT} chat.test" == await ask(port, (b"X-Forwarded-For", b"192.0.2.7"))
        with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True):
            await ask(port, (b"Forwarded", b"for=192.0.2.7"))
    assert {400: 1} == gateway.statistics().refusals
    nursery.cancel_scope.cancel()


async def test_haproxy_speaks_for_whom_nginx_speaks_for(
    nursery: trio.Nursery, haproxy: Configure
) -> None:
    """Both at once: the header's address is the next hop, which is to be trusted itself."""
    gateway = await serve(nursery, Proxies(trusted=(PROXY, CLIENT), protocol=True))
    command, port = haproxy(gateway, "tcp", "", "send-proxy-v2")
    async with running(command, port):
        assert "192.0.2.7 chat.test" == await ask(port, (b"X-Forwarded-For", b"192.0.2.7"))
        assert f"{CLIENT} chat.test" == await ask(port)
    nursery.cancel_scope.cancel()


async def test_nginx_writes_x_forwarded_for(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Address and host are the client's, although nginx asks for another host."""
    gateway = await serve(nursery, Proxies(trusted=(PROXY,), header="x-forwarded-for"))
    port, file = free_port(), tmp_path / "nginx.conf"
    file.write_text(NGINX.format(folder=tmp_path, proxy=PROXY, port=port, gateway=gateway.port))
    command = [program("nginx"), "-p", str(tmp_path), "-c", str(file), "-e", "stderr"]
    async with running(command, port):
        assert f"{CLIENT} chat.test" == await ask(port)
        claims = [(b"X-Forwarded-For", b"192.0.2.7"), (b"Forwarded", b"for=192.0.2.7")]
        assert f"{CLIENT} chat.test" == await ask(port, *claims)
        async with open_websocket_url(f"ws://{PROXY}:{port}/") as connection:
            assert f"{PROXY} {PROXY}:{port}" == await connection.get_message()
    nursery.cancel_scope.cancel()
