"""The servers: ours and the peers, how each is started, and whether it can be here.

A service is a command that prints ``listening on http://127.0.0.1:PORT``. A server process leads a
process group of its own, so that ending it ends its children, and dies with the runner whatever
becomes of that.
"""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import IO, Self

import attrs

from .certificate import CERTIFICATE, KEY
from .children import ServerFailed, die_with_parent
from .packages import BENCH, SCRIPTS, NodePackages, PythonPackages
from .store import Redis, RunningRedis

_ROOT = SCRIPTS.parent
_START_TIMEOUT = 20.0
_REDIS = Redis()


@attrs.frozen(kw_only=True)
class Service:
    """One way a server is run.

    Attributes:
        command: its argv; ``{folder}`` in it is an empty folder, ``{redis}`` the URL of a
            redis-server of its own.
        tls: whether it speaks TLS.
        path: of the upgrade, ``{n}`` being the number of the connection, ``{room}`` its room.
        greetings: text frames that it sends by itself after the upgrade.
        message: what a client sends so that ``%(text)s`` is echoed, or broadcast in ``%(room)s``.
        join: what it sends to be in one more room, and is answered.
        question: what it sends to be answered with one frame, alone.
        outbox_bytes: what may wait for a client that doesn't read.
        workers: how many processes serve.
    """

    command: tuple[str, ...]
    tls: bool = False
    path: str = "/"
    greetings: int = 0
    message: str = "%(text)s"
    join: str = ""
    question: str = ""
    outbox_bytes: int = 0
    workers: int = 1


@attrs.frozen(kw_only=True)
class Server:
    """A server of the comparison.

    Attributes:
        key: what ``--servers`` names.
        title: what the table says.
        services: what it can be asked, by the name that a workload uses.
        packages: what it needs beside the project's environment.
        ours: a failure of it fails the run; a peer's is shown.
    """

    key: str
    title: str
    services: Mapping[str, Service]
    packages: PythonPackages | NodePackages | None = None
    ours: bool = False


class Running:
    """A started service; leaving the context kills it and all of its process group.

    Attributes:
        port: where it listens.
        pid: of its first process.
        store_pid: of the redis-server that is its own; 0 without one.
    """

    def __init__(self, server: Server, service: Service) -> None:
        self._command = service.command
        self._environment = environment_of(server)
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None
        self._around = ExitStack()
        self.port = 0
        self.pid = 0
        self.store_pid = 0

    def __enter__(self) -> Self:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name != "PORT" and not name.startswith("TRIO_GATEWAY_")
        } | self._environment
        try:
            command = self._filled_in()
            self._start(command, environment)
        except BaseException:
            self._kill()
            raise
        return self

    def _filled_in(self) -> list[str]:
        folder = self._around.enter_context(tempfile.TemporaryDirectory(dir=BENCH))
        values = {"{folder}": folder}
        if any("{redis}" in word for word in self._command):
            redis = self._around.enter_context(RunningRedis(_REDIS.program(), folder))
            self.store_pid = redis.pid
            values["{redis}"] = redis.url
        words = list(self._command)
        for name, value in values.items():
            words = [word.replace(name, value) for word in words]
        return words

    def _start(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            cwd=BENCH,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the runner has no threads
        )
        self.pid = self._process.pid
        self.port = self._await_port(self._process)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()
        self._stderr.close()

    def check_alive(self) -> None:
        """Raise ServerFailed, with its last words, when the server has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed(f"the server died: {self._last_words()}")

    def _await_port(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None
        deadline = time.monotonic() + _START_TIMEOUT
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                more = os.read(process.stdout.fileno(), 4096)
                if not more:
                    process.wait()
                    raise ServerFailed(f"did not start: {self._last_words()}")
                said += more
                for line in said.decode(errors="replace").split("\n")[:-1]:
                    if line.startswith("listening on "):
                        return int(line.rpartition(":")[2])
        raise ServerFailed(f"said nothing of a port within {_START_TIMEOUT:g} s")

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word on stderr"

    def _kill(self) -> None:
        try:
            if self._process is not None:
                self._kill_group(self._process)
        finally:
            self._around.close()

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def environment_of(server: Server) -> dict[str, str]:
    """Where its interpreter finds its modules."""
    python = [str(SCRIPTS), str(_ROOT)]
    match server.packages:
        case PythonPackages() as packages:
            return {"PYTHONPATH": os.pathsep.join((*python, str(packages.folder)))}
        case NodePackages() as packages:
            return {"NODE_PATH": str(packages.folder)}
        case None:
            return {"PYTHONPATH": os.pathsep.join(python)}


def _peer(module: str, role: str, *more: str, tls: bool = False) -> Service:
    command = (sys.executable, "-P", "-m", f"benchmarks.peers.{module}", role, *more)
    return Service(command=command, tls=tls)


def _tls_peer(module: str) -> Service:
    return _peer(module, "echo", str(CERTIFICATE), str(KEY), tls=True)


def _services(module: str, **more: Service) -> dict[str, Service]:
    echo = _peer(module, "echo")
    return {"connect": echo, "echo": echo, "broadcast": _peer(module, "broadcast"), **more}


def _chat(*flags: str, store: str = "memory", workers: int = 1) -> Service:
    return Service(
        command=(
            *(sys.executable, "-P", "-m", "trio_gateway", "serve", "--port", "0"),
            *("--store", store, "--workers", str(workers), "--handshake-timeout", "120", *flags),
        ),
        path="/?room={room}&user=u{n}",
        greetings=2,
        message='{"type":"message","room":"%(room)s","text":"%(text)s"}',
        join='{"type":"join","room":"%(room)s"}',
        question='{"type":"members","room":"%(room)s"}',
        outbox_bytes=1 << 20,  # its default
        workers=workers,
    )


def _never_read(store: str, workers: int = 1) -> Service:
    # Who doesn't read answers no ping either.
    return _chat("--heartbeat", "0", store=store, workers=workers)


def _ws(role: str) -> Service:
    return Service(command=("node", str(SCRIPTS / "benchmarks" / "peers" / "ws.cjs"), role))


SERVERS = (
    Server(
        key="gateway",
        title="trio_gateway, a handler",
        services={
            "connect": _peer("gateway_handler", "echo"),
            "echo": _peer("gateway_handler", "echo"),
            "tls": _tls_peer("gateway_handler"),
        },
        ours=True,
    ),
    Server(
        key="gateway-chat",
        title="trio_gateway, its chat",
        services={
            "connect": _chat(),
            "broadcast": _chat(),
            "broker": _never_read("memory"),
            "chat": _chat(),
            "refuse": _chat(),
            "refuse-origin": _chat("--allow-origin", "http://good.example"),
            "refuse-path": _chat("--strict-paths"),
            "refuse-version": _chat(),
            "refuse-address": _chat("--max-connections-per-ip", "1"),
            "refuse-full": _chat("--max-connections", "1"),
        },
        ours=True,
    ),
    Server(
        key="gateway-sqlite",
        title="its chat, SQLite",
        services={"broker": _never_read("sqlite:{folder}/chat.db")},
        ours=True,
    ),
    Server(
        key="gateway-redis",
        title="its chat, Redis",
        services={"broker": _never_read("{redis}"), "workers": _never_read("{redis}")},
        packages=_REDIS,
        ours=True,
    ),
    Server(
        key="gateway-workers",
        title="its chat, two workers, Redis",
        services={"workers": _never_read("{redis}", workers=2)},
        packages=_REDIS,
        ours=True,
    ),
    Server(key="bare", title="bare loop of system calls", services=_services("bare")),
    Server(
        key="uwebsockets",
        title="uWebSockets (socketify)",
        services=_services("uwebsockets"),
        packages=PythonPackages("socketify"),
    ),
    Server(
        key="picows",
        title="picows + uvloop",
        services=_services("picows_uvloop"),
        packages=PythonPackages("picows", "uvloop"),
    ),
    Server(
        key="ws",
        title="ws (Node)",
        services={
            "connect": _ws("echo"),
            "echo": _ws("echo"),
            "broadcast": _ws("broadcast"),
            "refuse": _ws("echo"),
        },
        packages=NodePackages("ws", "bufferutil"),
    ),
    Server(
        key="websockets",
        title="websockets, asyncio",
        services=_services(
            "websockets_asyncio",
            tls=_tls_peer("websockets_asyncio"),
            refuse=_peer("websockets_asyncio", "echo"),
            **{"refuse-origin": _peer("websockets_asyncio", "echo")},
        ),
    ),
    Server(
        key="websockets-trio",
        title="websockets, trio",
        services=_services(
            "websockets_trio",
            tls=_tls_peer("websockets_trio"),
            refuse=_peer("websockets_trio", "echo"),
        ),
    ),
    Server(
        key="trio-websocket",
        title="trio-websocket",
        services=_services("trio_websocket_server", tls=_tls_peer("trio_websocket_server")),
    ),
)
