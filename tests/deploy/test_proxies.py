"""``deploy/nginx.conf`` and ``deploy/haproxy.cfg``, run in front of a gateway."""

import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.chatting import Chat
from tests.cli.process import ROOT, Running, gateway
from tests.deploy.conftest import Program
from trio_gateway.client.target import Target

_AROUND_NGINX = """
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    {snippet}
}}
"""
Command = Callable[[str, Path], list[str]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def nginx(program: Program, text: str, folder: Path) -> list[str]:
    """Write a configuration around the snippet, and return what runs it."""
    file = folder / "nginx.conf"
    file.write_text(_AROUND_NGINX.format(folder=folder, snippet=text))
    return [program("nginx"), "-c", str(file), "-p", str(folder), "-e", "stderr"]


def haproxy(program: Program, text: str, folder: Path) -> list[str]:
    """Write the configuration, and return what runs it."""
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return [program("haproxy"), "-db", "-f", str(file)]


@asynccontextmanager
async def proxied(
    kind: str, program: Program, folder: Path
) -> AsyncGenerator[tuple[Running, str], None]:
    """Run a gateway behind the proxy; yield it and the proxy's URL."""
    port = free_port()
    name, make, listen = {
        "nginx": ("nginx.conf", nginx, ("listen 80;", f"listen 127.0.0.1:{port};")),
        "haproxy": ("haproxy.cfg", haproxy, ("bind :80", f"bind 127.0.0.1:{port}")),
    }[kind]
    store = f"sqlite:{folder / 'store.db'}"
    text = (ROOT / "deploy" / name).read_text()
    async with gateway("--trusted-proxy", "127.0.0.1", "--store", store, patience=120) as running:
        assert listen[0] in text
        assert "127.0.0.1:3000" in text
        text = text.replace(*listen).replace("127.0.0.1:3000", f"127.0.0.1:{running.port}")
        process = await trio.lowlevel.open_process(
            make(program, text, folder), stdin=subprocess.DEVNULL
        )
        try:
            await until_ready(f"http://127.0.0.1:{port}")
            yield running, f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            with trio.CancelScope(shield=True):
                await process.wait()


async def until_ready(url: str) -> None:
    with trio.fail_after(20):
        while True:
            try:
                answer = await Target.parse(url).request("GET", "/readyz")
            except Exception:
                await trio.sleep(0.05)
                continue
            if answer.status == 200:
                return
            await trio.sleep(0.05)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_it_passes_everything_on(kind: str, program: Program, tmp_path: Path) -> None:
    """Page, health and chat, through a hand-over of the gateway too: nobody is refused."""
    os.chmod(tmp_path, 0o755)
    async with proxied(kind, program, tmp_path) as (running, url):
        target = Target.parse(url)
        assert 200 == (await target.request("GET", "/")).status
        token = await running.token()
        assert 200 == (await target.request("GET", "/api/rooms/lobby/members", token=token)).status
        chat = Chat(url, 20)
        async with chat.going_on():
            await chat.say_for(0.5)
            running.process.send_signal(signal.SIGUSR2)
            await running.err.until("supervising")
            await chat.say_for(0.5)
        chat.check()
        assert chat.count_breaks() == 20
