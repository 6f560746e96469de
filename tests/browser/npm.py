"""Where npm has put a package that the tests use, if it has."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def find_module(name: str) -> Path | None:
    """Return the folder of an npm package, from ``NODE_PATH`` or the project's own."""
    folders = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep)]
    folders += [ROOT / "node_modules", ROOT / ".bench" / "node_modules"]
    found = [folder / name for folder in folders if (folder / name / "package.json").exists()]
    return found[0].resolve() if found else None
