"""A site for each test; afterwards nothing of its client is left."""

from collections.abc import AsyncIterator

import pytest
import trio

from tests.peers.gateway import GUARD, Certificates, Site


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates.issue()


@pytest.fixture
async def site(nursery: trio.Nursery, certificates: Certificates) -> AsyncIterator[Site]:
    site = Site(certificates)
    await site.start(nursery)
    yield site
    with trio.fail_after(GUARD):
        await site.quiet()


@pytest.fixture(params=[False, True], ids=["tcp", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Each test over both."""
    return bool(request.param)
