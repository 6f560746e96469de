"""Headless Chromium for the tests of the page; they are skipped, and say so, where there is none.

Playwright's synchronous API runs an asyncio loop of its own below the test, so these tests are
plain functions and the gateway is a process.
"""

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.site import Site, serve

Open = Callable[..., Any]

# Chromium writes of each connection that breaks, and of each breach of the policy: both are tested.
_EXPECTED = ("WebSocket connection to", "net::ERR_", "requires 'TrustedHTML' assignment")


@pytest.fixture(scope="module")
def chromium() -> Generator[Any]:
    """A browser for the tests of a module."""
    api = pytest.importorskip("playwright.sync_api", reason="pip has not installed playwright")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        api.expect.set_options(timeout=15_000)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Generator[Open]:
    """Opens an address in a browser of its own; nothing unexpected may reach its console.

    With ``sockets`` the test plays the server of its WebSockets.
    """
    contexts: list[Any] = []
    problems: list[str] = []

    def note(message: Any) -> None:
        if message.type in ("error", "warning") and not any(
            known in message.text for known in _EXPECTED
        ):
            problems.append(message.text)

    def fail(error: Exception) -> None:
        problems.append(str(error))

    def open_page(
        url: str, *, sockets: Callable[[Any], object] | None = None, **options: Any
    ) -> Any:
        context = chromium.new_context(locale="en-GB", **options)
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", fail)
        if sockets is not None:
            page.route_web_socket("**", sockets)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def site() -> Generator[Site]:
    """A gateway that the tests of a module share, each in a room of its own."""
    yield from serve(Site())


@pytest.fixture
def mortal() -> Generator[Site]:
    """A gateway of one test, to be ended and started again; its store is in memory."""
    yield from serve(Site())


@pytest.fixture
def lasting(tmp_path: Path) -> Generator[Site]:
    """A gateway whose messages outlive its process."""
    yield from serve(Site(store=f"sqlite:{tmp_path / 'store.db'}"))


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room, or a user, of one test."""
    name: str = request.node.name
    return name.removeprefix("test_")[:60]
