"""npm ``ws`` on Node talks to the gateway; skipped, and said so, where ``ws`` is not installed."""

import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.peers.gateway import GUARD, MEGABYTE, Certificates, Site

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("ws.cjs")

Ws = Callable[..., Awaitable[dict[str, Any]]]


def find_module() -> Path | None:
    """Return where ``NODE_PATH``, ``.ci/run`` or ``scripts/bench`` has put the npm package."""
    folders = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep)]
    folders += [ROOT / "node_modules", ROOT / ".bench" / "node_modules"]
    found = [folder / "ws" for folder in folders if (folder / "ws" / "package.json").exists()]
    return found[0].resolve() if found else None


@pytest.fixture(scope="session")
def authority(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    file.write_bytes(certificates.authority)
    return file


@pytest.fixture
def ws(site: Site, tls: bool, authority: Path) -> Ws:
    """Runs one scenario of ``ws.cjs`` against a path of the gateway; returns its report."""
    node, module = shutil.which("node"), find_module()
    if node is None:
        pytest.skip("no node on the PATH")
    if module is None:
        pytest.skip("npm `ws` is not installed: npm install --no-save ws@8")

    async def run(scenario: str, path: str, **variables: object) -> dict[str, Any]:
        environment = {name: str(value) for name, value in variables.items()}
        command = [node, str(SCRIPT), scenario, site.url(path, tls=tls)]
        with trio.fail_after(GUARD):
            done = await trio.run_process(
                [*command, str(authority)] if tls else command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**os.environ, "WS_MODULE": str(module), **environment},
            )
        assert done.returncode == 0, done.stderr.decode()
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    return run


async def test_messages(ws: Ws) -> None:
    """Text, bytes, nothing, and a megabyte come back; compression was offered and is declined."""
    report = await ws("echo", "/echo")
    assert report == {
        "sizes": [4, 0, 6, MEGABYTE, 5, 0, MEGABYTE],
        "extensions": "",
        "code": 1000,
        "reason": "",
    }


async def test_fragmented_messages(ws: Ws) -> None:
    """With a ping between the fragments; a Close without a code is answered by one."""
    report = await ws("fragments", "/echo")
    assert report == {"text": "one message", "code": 1005, "reason": ""}


async def test_many_messages_at_once(ws: Ws) -> None:
    """A burst comes back in order."""
    assert await ws("burst", "/echo") == {"count": 2000, "ordered": True}


@pytest.mark.parametrize("path", ["/echo", "/sleep"])
async def test_its_pings(ws: Ws, path: str) -> None:
    """They are answered, whether or not the handler reads."""
    assert await ws("pings", path) == {"pongs": ["", "marco", "x" * 125]}


async def test_our_pings(ws: Ws) -> None:
    """It answers them; the handler's end closes with 1000."""
    report = await ws("listen", "/ping")
    assert report == {
        "protocol": "",
        "code": 1000,
        "reason": "",
        "messages": ["polo"],
        "pings": 2,
    }


@pytest.mark.parametrize("code, reason", [(1000, ""), (3000, "é"), (4999, "bye")])
async def test_close_codes_both_ways(ws: Ws, site: Site, code: int, reason: str) -> None:
    """Code and reason arrive, whoever closes."""
    assert (await ws("close", "/told", CODE=code, REASON=reason))["code"] == code
    with trio.fail_after(GUARD):
        assert await site.heard() == [(code, reason or None)]
    query = f"?reason={reason.replace('é', '%C3%A9')}" if reason else ""
    report = await ws("listen", f"/close/{code}{query}")
    assert (report["code"], report["reason"]) == (code, reason)


async def test_it_vanishes(ws: Ws, site: Site) -> None:
    """``terminate()`` drops the socket: 1006 on both sides."""
    assert (await ws("terminate", "/told"))["code"] == 1006
    with trio.fail_after(GUARD):
        assert await site.heard() == [(1006, None)]


async def test_too_large_a_message(ws: Ws) -> None:
    """It is told 1009, not cut off, though it is still sending."""
    assert (await ws("large", "/echo"))["code"] == 1009


async def test_subprotocols(ws: Ws) -> None:
    """Offered in order, selected by the handler."""
    report = await ws("listen", "/chat", OFFERED="soap,chat.v2")
    assert report["protocol"] == "chat.v2"
    assert report["messages"] == ["soap,chat.v2"]


@pytest.mark.parametrize(
    "status, phrase", [(401, "Unauthorized"), (429, "Too Many Requests"), (503, None)]
)
async def test_rejections(ws: Ws, status: int, phrase: str | None) -> None:
    """Status, reason phrase, header and body arrive."""
    report = await ws("rejected", f"/reject/{status}")
    assert (report["status"], report["why"], report["body"]) == (status, "because", "not you")
    assert report["phrase"] == (phrase or "Service Unavailable")
