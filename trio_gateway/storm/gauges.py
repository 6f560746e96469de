"""What a server holds: descriptors, memory, tasks, told by /proc, by /metrics or by this process.

In: a pid, a target, nothing. Out: numbers by name. The rule: what cannot be read is left out,
and is then no finding.
"""

import math
import os
import re
from collections.abc import Awaitable, Callable, Sequence

import trio

from trio_gateway.storm.octets import plain
from trio_gateway.storm.target import Target
from trio_gateway.storm.transport import Broken, Network, Unreachable

Gauge = Callable[[], Awaitable[dict[str, float]]]
_METRIC = re.compile(
    rb"^trio_gateway_(sockets|handlers|connections|pending_handshakes|pending_upgrades"
    rb"|hub_subscriptions) ([0-9.e+]+)$",
    re.MULTILINE,
)
_WITHIN = 5.0
STARVED = "starved"
"""Seconds in which a process could have run and was not let, all its life: it only grows."""


def of_process(pid: int) -> Gauge:
    """Return the gauge of a process of this machine, from /proc."""
    page = os.sysconf("SC_PAGE_SIZE")

    async def read() -> dict[str, float]:
        await trio.lowlevel.checkpoint()
        try:
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            with open(f"/proc/{pid}/statm") as statm:  # noqa: ASYNC230  # no disk is behind it
                memory = int(statm.read().split()[1]) * page
        except (OSError, IndexError, ValueError):
            return {}
        return {"descriptors": descriptors, "memory": memory, **_starved(pid)}

    return read


def _starved(pid: int) -> dict[str, float]:
    """Return how long the process's first thread waited for a processor, where Linux says so."""
    try:
        with open(f"/proc/{pid}/schedstat") as schedstat:
            return {STARVED: int(schedstat.read().split()[1]) / 1e9}
    except (OSError, IndexError, ValueError):
        return {}


def of_metrics(network: Network, target: Target) -> Gauge:
    """Return the gauge of a gateway that has ``/metrics``."""
    request = plain(b"GET /metrics HTTP/1.1", b"Connection: close")
    request = request.replace(b"{authority}", target.authority.encode())

    async def read() -> dict[str, float]:
        received = b""
        with trio.move_on_after(_WITHIN):
            try:
                line = await network.connect(tls=True, window=None)
            except Unreachable:
                return {}
            try:
                await line.send(request)
                while data := await line.receive(65536):
                    received += data
            except Broken:
                pass
            finally:
                line.close()
        return {name.decode(): float(value) for name, value in _METRIC.findall(received)}

    return read


async def of_this_process() -> dict[str, float]:
    """Return descriptors and Trio tasks of the process that the storm runs in."""
    await trio.lowlevel.checkpoint()
    numbers: dict[str, float] = {"tasks": trio.lowlevel.current_statistics().tasks_living}
    try:
        numbers["descriptors"] = len(os.listdir("/proc/self/fd"))
    except OSError:
        pass  # not Linux
    return numbers


async def read_all(gauges: Sequence[Gauge], within: float = math.inf) -> dict[str, float]:
    """Return what several gauges tell; what there is after ``within`` seconds."""
    numbers: dict[str, float] = {}
    with trio.move_on_after(within):
        for gauge in gauges:
            numbers |= await gauge()
    return numbers
