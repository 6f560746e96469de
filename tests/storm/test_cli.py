"""``storm`` on the command line: exit statuses, replay files, what it refuses to touch."""

from pathlib import Path

import pytest
import trio

from tests.cli.process import run_here
from tests.storm.canaries import wrong
from tests.storm.canaries.base import Canary
from tests.storm.kept import Kept
from tests.storm.test_canaries import server_of
from trio_gateway.storm import FAULTS, generate, loads

Capture = pytest.CaptureFixture[str]
FEW = ["--clients", "8", "--duration", "0.2"]


async def test_a_good_server_is_clean(nursery: trio.Nursery, capfd: Capture) -> None:
    """Status 0, and the last line says so."""
    kept = Kept(nursery, server_of(Canary))
    await kept.restart()
    faults = ["--fault", "rst-at-byte", "--fault", "unmasked-frame"]
    ended = await run_here(capfd, "storm", kept.url, "--seed", "3", *FEW, *faults)
    nursery.cancel_scope.cancel()
    assert (0, [], "clean: nothing was found") == (ended.status, ended.err, ended.out[-1])
    assert "seed 3, 8 clients" in ended.out[0]


@pytest.mark.parametrize(
    "flag, clients",
    [("--no-shrink", 8), pytest.param("--shrink", 1, marks=pytest.mark.long)],
)
async def test_a_finding_is_saved_and_replayed(
    *,
    nursery: trio.Nursery,
    capfd: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    clients: int,
) -> None:
    """Status 1; the file it writes finds the same again, as it was or made small."""
    monkeypatch.chdir(tmp_path)
    kept = Kept(nursery, server_of(wrong.AnswersBehindThe101))
    await kept.restart()
    fault = ["--fault", "two-upgrades-in-one-segment"]
    found = await run_here(capfd, "storm", kept.url, "--seed", "5", flag, *FEW, *fault)
    file = tmp_path / "storm-5-http-after-101.json"
    again = await run_here(capfd, "storm", kept.url, "--replay", str(file))
    kept_right = Kept(nursery, server_of(Canary))
    await kept_right.restart()
    mended = await run_here(capfd, "storm", kept_right.url, "--replay", str(file))
    nursery.cancel_scope.cancel()
    assert (1, []) == (found.status, found.err)
    assert any(line.startswith("FINDING") and "http-after-101" in line for line in found.out)
    assert clients == len(loads(file.read_text()).scripts)
    assert "HTTP answer inside a WebSocket" in file.with_suffix(".txt").read_text()
    assert 1 == again.status
    assert 0 == mended.status


async def test_the_faults_are_told(capfd: Capture) -> None:
    """Each with what it stands for and what is allowed."""
    ended = await run_here(capfd, "storm", "--list-faults")
    assert 0 == ended.status
    assert set(FAULTS) <= {line.partition(" ")[0] for line in ended.out}


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["storm"], "URL is missing"),
        (["storm", "127.0.0.1"], "must be a URL"),
        (["storm", "ws://example.org/"], "--i-own-this-server example.org"),
        (["storm", "ws://192.0.2.1/", "--i-own-this-server", "192.0.2.2"], "is not this machine"),
        (["storm", "ws://127.0.0.1:1", "--fault", "kindness"], "kindness"),
        (["storm", "ws://127.0.0.1:1", "--fault", "http-on-tls"], "needs a wss:// URL"),
        (["storm", "ws://127.0.0.1:1", "--fault", "herd-during-restart"], "needs --restart"),
        (["storm", "ws://127.0.0.1:1", "--rate", "1000000"], "--rate"),
        (["storm", "ws://127.0.0.1:1", "--replay", "/no/such/file"], "No such file"),
        (["storm", "ws://127.0.0.1:1", "--replay", __file__], "--replay"),
        (["storm", "ws://127.0.0.1:1"], "ECONNREFUSED"),
    ],
)
async def test_wrong_use_is_one_line(capfd: Capture, arguments: list[str], why: str) -> None:
    """Status 2."""
    ended = await run_here(capfd, *arguments)
    assert (2, 1) == (ended.status, len(ended.err))
    assert why in ended.err[0]


async def test_a_flag_is_a_variable_too(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named with STORM, so that none is one of ``serve``'s; the flag is the stronger one."""
    monkeypatch.setenv("TRIO_GATEWAY_STORM_SEED", "77")
    monkeypatch.setenv("TRIO_GATEWAY_STORM_CLIENTS", "3")
    monkeypatch.setenv("TRIO_GATEWAY_STORM_FAULT", "garbage herd")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
    await listeners[0].aclose()
    program = generate(77, clients=2, faults=["garbage", "herd"])
    ended = await run_here(capfd, "storm", url, "--clients", "2")
    assert f"seed 77, 2 clients, {program.steps} steps" == ended.out[0]


async def test_what_is_no_websocket_is_not_stormed(nursery: trio.Nursery, capfd: Capture) -> None:
    """A good handshake must be answered with a 101 to begin with."""

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, refuse, 0)
    url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
    ended = await run_here(capfd, "storm", url)
    nursery.cancel_scope.cancel()
    assert 2 == ended.status
    assert "answered a good WebSocket handshake with 404" in ended.err[0]


def test_the_saved_storm_is_the_seed_s(tmp_path: Path) -> None:
    """A file of a whole storm is what the seed gives again."""
    file = tmp_path / "storm.json"
    program = generate(11, clients=5)
    file.write_text(program.dumps(), encoding="ascii")
    assert program == loads(file.read_text(encoding="ascii"))
