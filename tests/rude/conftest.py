"""Sites over each transport, and nothing left open behind any test."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from tests.rude.site import Certificates, Serve, Site, Transport, descriptors, open_listener
from trio_gateway import Handler


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates.issue()


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Whatever a test did, cancelled gateways included, gave its descriptors back."""
    before = descriptors()
    yield
    if descriptors() != before:
        gc.collect()
    assert descriptors() == before


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> Transport:
    """TCP; ``@over(...)`` asks for others."""
    return cast(Transport, getattr(request, "param", "tcp"))


@pytest.fixture
async def serve(
    nursery: trio.Nursery, transport: Transport, certificates: Certificates, tmp_path: Path
) -> Serve:
    async def start(handler: Handler, **settings: Any) -> Site:
        listener = await open_listener(transport, certificates, tmp_path)
        site = Site(handler, listener, certificates.client, **settings)
        await nursery.start(site.gateway.run)
        await site.open()
        return site

    return start
