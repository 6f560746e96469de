"""A gateway as a process that can be killed and come back on its port, and who publishes to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[2]
API_TOKEN = "the-backend's"
_START = 30.0
_END = 20.0


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_GATEWAY")}
    own.pop("PORT", None)
    return own | {"PYTHONPATH": str(ROOT)}


@attrs.define(eq=False)
class Site:
    """A gateway on a port of its own.

    Attributes:
        arguments: of ``serve``, behind the port, the token and the store.
        store: in memory, so that a new process knows nothing.
        port: the same for all its processes.
    """

    arguments: Sequence[str] = ()
    port: int = attrs.Factory(free_port)
    store: str = "memory"
    _process: "subprocess.Popen[str] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start a process and wait until it listens."""
        command = [sys.executable, "-P", "-m", "trio_gateway", "--port", str(self.port)]
        command += ["--store", "memory"]
        self._process = subprocess.Popen(
            [*command, "--api-token", API_TOKEN, "--store", self.store, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
        )
        late = threading.Timer(_START, self._process.kill)
        late.start()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        late.cancel()
        if not line.startswith("listening on "):
            self.stop()
            raise AssertionError("the gateway did not start")

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, wait for the end; nothing happens if there is no process."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signum)
        try:
            process.wait(_END)
        finally:
            process.kill()
            process.communicate()

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal and don't wait."""
        assert self._process is not None
        self._process.send_signal(signum)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Publish over the HTTP API."""
        request = urllib.request.Request(  # the site's own address
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {API_TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_END) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def get(self, path: str) -> dict[str, Any]:
        """Read from the HTTP API."""
        request = urllib.request.Request(
            f"{self.url}{path}", headers={"Authorization": f"Bearer {API_TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=_END) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def say(self, text: str, *, user: str = "bob", room: str = "lobby") -> None:
        """Publish a message."""
        self.post("/api/messages", {"room": room, "user": user, "text": text})

    def notify(self, to: str, title: str, body: str = "") -> None:
        """Publish a notification."""
        self.post("/api/notifications", {"to": to, "title": title, "body": body})


def serve(site: Site) -> Generator[Site]:
    """Run a gateway for as long as a fixture lasts."""
    site.start()
    yield site
    site.stop(signal.SIGKILL)
