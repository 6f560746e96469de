"""The original mistake, told in ``docs/examples``: two servers of npm ``ws`` on one HTTP server.

The storm says of each of its two forms what it is. Skipped, and said so, without Node or ``ws``.
"""

import shlex
import shutil
import socket
from pathlib import Path

import pytest

from tests.cli.process import run_here
from tests.peers.test_ws import ROOT, find_module
from trio_gateway.storm import loads

EXAMPLE = ROOT / "docs" / "examples" / "ws_two_servers.mjs"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """Return the shell command that starts the two, and the port that they will have."""
    node, module = shutil.which("node"), find_module()
    if node is None:
        pytest.skip("no node on the PATH")
    if module is None:
        pytest.skip("npm `ws` is not installed: npm install --no-save ws@8")
    # An ECMAScript module finds its packages beside itself, not by NODE_PATH.
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "ws").symlink_to(module, target_is_directory=True)
    script = shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return f"exec {shlex.join([node, str(script), str(port)])}", port


def written(name: str) -> str:
    """Return a file of the present folder, where the storm leaves them."""
    return Path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path, rule, shrunk, told",
    [
        ("/", "http-after-101", 1, "HTTP/1.1 400 Bad Request"),
        ("/notifications/ws", "dead", None, "nobody listens any more"),
    ],
)
async def test_two_servers_on_one_http_server(
    *,
    command: tuple[str, int],
    capfd: pytest.CaptureFixture[str],
    path: str,
    rule: str,
    shrunk: int | None,
    told: str,
) -> None:
    """HTTP in a WebSocket where one is asked for, the end of the process where both are."""
    restart, port = command
    few = ["--seed", "1", "--clients", "4", "--duration", "0.2", "--fault", "well-behaved"]
    shrink = "--shrink" if shrunk else "--no-shrink"
    url = f"ws://127.0.0.1:{port}{path}"
    ended = await run_here(capfd, "storm", url, *few, shrink, "--restart", restart)
    assert (1, []) == (ended.status, ended.err)
    assert any(line.startswith("FINDING") and rule in line for line in ended.out)
    assert told in written(f"storm-1-{rule}.txt")
    if shrunk is not None:
        program = loads(written(f"storm-1-{rule}.json"))
        assert shrunk == len(program.scripts)
        assert program.steps <= 3
