"""What some peers need beside the project's environment: installed on demand under ``.bench/``.

The folder lies at the root, ignores itself for git and may be deleted at any time. What can't be
had is no error: the peer is left out, and the table says why.
"""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
BENCH = SCRIPTS.parent / ".bench"

_TIMEOUT = 180


class Missing(Exception):
    """Why a peer can't be measured here."""


class PythonPackages:
    """Distributions in a folder of their own; no other process sees them.

    Attributes:
        needs: what has to be there, for people.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self.needs = ", ".join(names)
        self.folder = BENCH / f"python-{names[0]}"

        self._stamp = self.folder / "stamp"
        self._wanted = f"{sys.version} {' '.join(names)}"

    def installed(self) -> bool:
        """Whether they are there, for this Python."""
        return self._stamp.exists() and self._stamp.read_text() == self._wanted

    def install(self) -> None:
        """Put them there.

        Raises:
            Missing: pip's last word.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-input")
        _run(*pip, "--disable-pip-version-check", "--target", str(self.folder), *self._names)
        self._stamp.write_text(self._wanted)

    def version(self) -> str:
        """Of the first of them."""
        found = metadata.distributions(name=self._names[0], path=[str(self.folder)])
        return next(iter(found)).version


class NodePackages:
    """npm packages; they may carry prebuilt binaries, but no install script is run."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self.needs = ", ".join(names)
        self.folder = BENCH / "node_modules"

    def installed(self) -> bool:
        """Whether they are there, and a Node to run them."""
        there = all((self.folder / name).is_dir() for name in self._names)
        return there and shutil.which("node") is not None

    def install(self) -> None:
        """Put them there.

        Raises:
            Missing: there is no Node, or npm's last word.
        """
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise Missing("no node or no npm on the PATH")
        npm = ("npm", "install", "--prefix", str(BENCH), "--ignore-scripts", "--no-audit")
        _run(*npm, "--no-fund", *self._names)

    def version(self) -> str:
        """Of the first of them."""
        about = json.loads((self.folder / self._names[0] / "package.json").read_text())
        return str(about["version"])


def make_folder() -> None:
    """``.bench/``, ignored by git."""
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")


def _run(*command: str) -> None:
    print(f"scripts/bench: {' '.join(command)}", file=sys.stderr)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{command[0]} took longer than {_TIMEOUT} s") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "err" in line.lower()]
        raise Missing(errors[-1] if errors else f"{command[0]} failed")
