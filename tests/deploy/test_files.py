"""The other files of ``deploy/``: each tried as far as this machine allows."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.cli.process import ROOT, start
from tests.deploy.conftest import Program
from tests.deploy.test_proxies import free_port
from trio_gateway.client.target import Target

DEPLOY = ROOT / "deploy"


async def status(url: str) -> int:
    return (await Target.parse(url).request("GET", "/healthz")).status


async def test_the_procfile() -> None:
    """Its one process listens on $PORT, and SIGTERM reaches the gateway through the shell."""
    kind, _, shell = (DEPLOY / "Procfile").read_text().strip().partition(": ")
    assert "web" == kind
    port = free_port()
    shell = shell.replace("python ", f"{shlex.quote(sys.executable)} -P ", 1)
    async with start(["sh", "-c", shell], {"PORT": str(port)}) as running:
        assert f"listening on http://0.0.0.0:{port}" == await running.out.next()
        assert 200 == await status(f"http://127.0.0.1:{port}")
        assert 0 == await running.terminate()


async def test_the_systemd_units(program: Program, tmp_path: Path) -> None:
    """systemd finds nothing wrong with them."""
    analyse = program("systemd-analyze")
    units = []
    for unit in sorted((DEPLOY / "systemd").iterdir()):
        text = unit.read_text().replace("/opt/trio-gateway/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text)
        units.append(str(tmp_path / unit.name))
    done = await trio.run_process(
        [analyse, "verify", "--man=no", *units],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stdout.decode())


def test_the_service_has_time_to_drain() -> None:
    """It is given more than the grace period, and runs what the installed program is."""
    service = (DEPLOY / "systemd" / "trio-gateway.service").read_text()
    stop = re.search("^TimeoutStopSec=([0-9]+)$", service, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > 30 + 5
    assert "-m trio_gateway" in service


def containerfile() -> tuple[dict[str, str], list[str]]:
    """Return the variables and the entry point of the Containerfile."""
    text = (DEPLOY / "Containerfile").read_text()
    variables = dict(re.findall("^ENV ([A-Z_]+)=(.*)$", text, re.MULTILINE))
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    return variables, json.loads(entry)


async def test_what_the_container_runs(tmp_path: Path) -> None:
    """Its variables and its entry point make a gateway that serves and drains."""
    variables, (python, *arguments) = containerfile()
    assert python == "/opt/trio-gateway/bin/python"
    home = "/var/lib/trio-gateway"
    env = {name: value.replace(home, str(tmp_path)) for name, value in variables.items()}
    async with start([sys.executable, *arguments, "--port", "0"], env) as running:
        line = await running.out.next()
        assert line is not None
        assert 200 == await status(line.split()[-1].replace("0.0.0.0", "127.0.0.1"))
        assert (tmp_path / "gateway.db").exists()
        assert 0 == await running.terminate()


@pytest.mark.long
async def test_the_container_is_built(program: Program) -> None:
    """By docker, where there is one that runs, and can get what it is built from."""
    docker = program("docker")
    if (await trio.run_process([docker, "info"], capture_stdout=True, check=False)).returncode:
        pytest.skip("docker is here and its daemon is not")
    command = [docker, "build", "--quiet", "--file", str(DEPLOY / "Containerfile"), str(ROOT)]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if b"pull" in done.stderr or b"resolve" in done.stderr:
        pytest.skip(f"no base image: {done.stderr.decode().splitlines()[-1]}")
    assert 0 == done.returncode, done.stderr.decode()
