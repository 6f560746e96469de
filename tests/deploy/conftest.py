"""What the tests of ``deploy/`` share."""

import shutil
from collections.abc import Callable

import pytest

Program = Callable[[str], str]


@pytest.fixture
def program() -> Program:
    """Find a program of this machine; without it, the test is skipped and says so."""

    def find(name: str) -> str:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if found is None:
            pytest.skip(f"{name} is not installed: apt-get install {name}")
        return found

    return find
