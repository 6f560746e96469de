"""gateway.js on Node.js: what it publishes and hears through random breaks, and its types."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.npm import find_module
from tests.browser.proxy import Proxy, proxy_to
from tests.browser.site import ROOT, Site

HERE = Path(__file__).parent
PAGE = ROOT / "trio_gateway" / "http" / "page"
BREAKS = 50
KILLS = (9, 24, 39)
NOTES = range(0, BREAKS, 10)
GUARD = 60.0


def node_with_socket(which: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and variables that give Node.js a WebSocket; skips where none is."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on the PATH")
    if which == "ws":
        module = find_module("ws")
        if module is None:
            pytest.skip("npm `ws` is not installed: npm install --no-save ws@8")
        return [node], {"WS_MODULE": str(module / "wrapper.mjs")}
    major = int(subprocess.check_output([node, "--version"], text=True)[1:].split(".")[0])
    if major < 20:
        pytest.skip(f"Node.js {major} is older than 20")
    return [node, *([] if major >= 22 else ["--experimental-websocket"])], {}


def run_through_breaks(command: list[str], variables: dict[str, str], site: Site) -> dict[str, Any]:
    """Run ``breaks.mjs`` while connections break and servers die; return its report."""
    draw = random.Random(7)
    with proxy_to(site.port) as proxy:
        process = subprocess.Popen(
            [*command, "--no-warnings", str(HERE / "breaks.mjs"), proxy.url, "40"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "ready\n", (line, process.communicate(timeout=GUARD))
            for number in range(BREAKS):
                break_once(proxy, draw)
                if number in KILLS:
                    site.stop(signal.SIGKILL)
                    site.start()
                if number in NOTES:
                    site.notify("listener", f"note {number}")
            time.sleep(0.2)
            out, err = process.communicate(str(len(NOTES)), timeout=GUARD)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    assert proxy.breaks >= BREAKS
    return report


def break_once(proxy: Proxy, draw: random.Random) -> None:
    """Let it run for a while, then break it in one of the ways that networks have."""
    for _ in range(500):
        if proxy.connections:
            break
        time.sleep(0.01)
    time.sleep(draw.uniform(0.01, 0.1))
    kind = draw.choice(["cut", "reset", "pause", "refuse", "reset"])
    if kind in ("pause", "refuse"):
        proxy.pause()
        time.sleep(draw.uniform(0.01, 0.1))
    proxy.refusing = kind == "refuse"
    if kind == "cut":
        proxy.cut()
    else:
        proxy.reset()  # behind a pause, what was on its way is lost
    time.sleep(draw.uniform(0.0, 0.05))
    proxy.refusing = False
    proxy.resume()


@pytest.mark.parametrize("which", ["ws", pytest.param("own", marks=pytest.mark.long)])
def test_fifty_random_breaks_lose_and_double_nothing(which: str, lasting: Site) -> None:
    """Every message is stored once and heard once, in order; every notification too."""
    report = run_through_breaks(*node_with_socket(which), lasting)
    assert report["failed"] == []
    assert report["stale"] == 0
    assert report["opens"] > BREAKS / 3
    for name in ("red", "blue"):
        count = report["published"][name]
        assert count > 20
        stored: list[tuple[int, str]] = []
        before = ""
        while True:
            page = lasting.get(f"/api/rooms/{name}/history?limit=256{before}")
            stored = [(each["offset"], each["text"]) for each in page["messages"]] + stored
            if not page["more"]:
                break
            before = f"&before={stored[0][0]}"
        assert [f"{name} {number}" for number in range(count)] == [text for _, text in stored]
        assert [offset for offset, _ in stored] == report["acked"][name]
        assert stored == [(offset, text) for offset, text in report["heard"][name]]
    assert [f"note {number}" for number in NOTES] == report["notes"]


def test_the_client_does_what_it_says() -> None:
    """Each rule by itself, against a server that the test plays: gateway.test.mjs."""
    command, _ = node_with_socket("own")
    done = subprocess.run(
        [*command, "--test", str(HERE / "gateway.test.mjs")],
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD,
    )
    assert done.returncode == 0, done.stdout


def test_a_peer_that_goes_silent_is_noticed(mortal: Site) -> None:
    """Without a FIN or an RST, by asking for a sign of life; what was said meanwhile arrives."""
    command, variables = node_with_socket("own")
    with proxy_to(mortal.port) as proxy:
        script = f"""
            import {{ Chat }} from {json.dumps((PAGE / "gateway.js").as_uri())};
            const chat = new Chat({json.dumps(proxy.url)}, {{
              user: "ann", silence: 100, probeTimeout: 100, backoffBase: 10, connectTimeout: 300,
            }});
            chat.addEventListener("state", ({{ detail }}) => {{
              console.log(detail.name, detail.reason ?? "");
            }});
            const room = chat.join("lobby");
            room.addEventListener("message", ({{ detail }}) => {{
              console.log(detail.text);
              if (detail.text === "bye") chat.close();
            }});
        """
        process = subprocess.Popen(
            [*command, "--no-warnings", "--input-type=module", "--eval", script],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert "open \n" in (next(lines), next(lines))
            proxy.pause()
            mortal.say("bye")
            assert "waiting the server went silent\n" == next(lines)
            proxy.resume()
            assert "bye\n" in list(lines)
            assert process.wait(GUARD) == 0
        finally:
            process.kill()
            process.communicate()


def test_the_types_are_those_of_a_user(tmp_path: Path) -> None:
    """A program in strict TypeScript compiles against gateway.d.ts, and a wrong one does not."""
    node, typescript = shutil.which("node"), find_module("typescript")
    if node is None:
        pytest.skip("no node on the PATH")
    if typescript is None:
        pytest.skip("npm `typescript` is not installed: npm install --no-save typescript@5")
    program = tmp_path / "user.ts"
    source = (HERE / "user.ts").read_text()
    program.write_text(source.replace("./gateway.js", str(PAGE / "gateway.js")))
    done = subprocess.run(
        [
            *(node, str(typescript / "bin" / "tsc"), "--noEmit", "--strict"),
            *("--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext"),
            *("--lib", "es2022,dom,dom.iterable", str(program)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
