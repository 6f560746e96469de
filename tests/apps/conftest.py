"""A world for the applications: see ``world.py``."""

import pytest
import trio

from tests.apps.world import World
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    """A world with nobody in it. Where time matters, the test asks for ``autojump_clock`` too."""
    broker = MemoryBroker()
    hub = Hub(broker)
    await nursery.start(hub.run)
    return World(hub, broker, nursery)
