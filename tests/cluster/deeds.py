"""What is done to nodes and to Redis while members talk."""

import os
import random
import signal
from collections import Counter

import trio

from tests.cluster.site import Node, Site

_STOPPED = 0.5  # seconds for which what was killed is away


async def kill_a_node(found: Site, chance: random.Random, _pause: float) -> None:
    """All its processes at once, as a machine fails."""
    node = chance.choice(found.nodes)
    await node.kill()
    await trio.sleep(_STOPPED)
    await node.start()


async def kill_a_worker(found: Site, chance: random.Random, _pause: float) -> None:
    """One of those under a supervisor, which starts another."""
    node = chance.choice([node for node in found.nodes if node.workers > 1])
    mark = node.mark()
    os.kill(chance.choice(node.pids), signal.SIGKILL)
    await node.until("a worker has ended", mark)
    await node.until('"serving"', mark)


async def restart_redis(found: Site, _chance: random.Random, _pause: float) -> None:
    """It is killed, and comes back with what is on its disk."""
    found.server.kill()
    await trio.sleep(_STOPPED)
    await trio.to_thread.run_sync(found.server.start)


async def pause_redis(found: Site, _chance: random.Random, pause: float) -> None:
    """It stops in the middle of whatever it does, and goes on."""
    found.server.send_signal(signal.SIGSTOP)
    await trio.sleep(pause)
    found.server.send_signal(signal.SIGCONT)


async def rolling_restart(found: Site, _chance: random.Random, _pause: float) -> None:
    """Every node in turn, as a new version is deployed: all clients of each are told 1012."""
    for node in found.nodes:
        before = found.ends.copy()
        await node.roll()
        check_roll(node, found.ends - before)


def check_roll(node: Node, ends: Counter[tuple[int, str]]) -> None:
    """Nobody's connection broke; and where there is a supervisor, nobody was refused."""
    hows = {how for port, how in ends if port == node.port}
    if node.workers == 1:
        hows -= {"refused", "unanswered", "503"}  # on the way there when it went
    assert hows <= {"1012"}, hows


DEEDS = (kill_a_node, kill_a_worker, restart_redis, pause_redis, rolling_restart)
