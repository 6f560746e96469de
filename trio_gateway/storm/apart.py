"""Control connections in a process of their own, so that the storm's own lag is in no latency.

In: an order, one line of JSON on stdin. Out: lines of JSON on stdout, a few a second, with what a
``Watcher`` is told. The rules: nothing else is in that process; it ends when nobody reads its lines
any more; which losses are excused is for the storm to say, who knows.
"""

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import attrs
import trio

import trio_gateway
from trio_gateway.storm.control import Control, Watcher
from trio_gateway.storm.oracle import Bounds
from trio_gateway.storm.probe import Kind
from trio_gateway.storm.sockets import resolve
from trio_gateway.storm.target import Target

_COMMAND = "from trio_gateway.storm.apart import main; main()"
_TELL = 0.1
_REMEMBERED = 600


@attrs.frozen(kw_only=True)
class Order:
    """What the control connections of a storm are to do.

    Attributes:
        target: where the server is.
        kind: what it can do.
        tag: of the storm.
        bounds: how many there are, and how late is too late.
    """

    target: Target
    kind: Kind
    tag: str
    bounds: Bounds

    def dumps(self) -> str:
        """Return it as a line."""
        return json.dumps(attrs.asdict(self)) + "\n"

    @classmethod
    def loads(cls, line: str) -> "Order":
        """Read what ``dumps()`` wrote."""
        fields = json.loads(line)
        fields["target"] = Target(**fields["target"])
        fields["bounds"] = Bounds(**fields["bounds"])
        return cls(**fields)


async def control_apart(
    order: Order,
    watcher: Watcher,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Have another process talk, and tell what it tells; cancelled, it is killed.

    Arguments:
        order: what to do.
        watcher: who is told.
        task_status: started once all are connected, or have said that they cannot be.
    """
    # The child finds this very package, wherever this process has it from.
    places = [str(Path(trio_gateway.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdin.send_all(order.dumps().encode())
        received = b""
        async for data in process.stdout:
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                told = json.loads(line)
                for latency in told["controls"]:
                    watcher.control(latency)
                for rule, message in told["lost"]:
                    watcher.lost(rule, message)
            if lines:
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
        raise RuntimeError("the process of the control connections has ended")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@attrs.define(eq=False)
class _Teller:
    """The watcher in the child: collects, and tells every tenth of a second."""

    bounds: Bounds
    excused: bool = False
    _controls: list[float] = attrs.Factory(list)
    _lost: list[tuple[str, str]] = attrs.Factory(list)
    _lags: deque[tuple[float, float]] = attrs.Factory(lambda: deque(maxlen=_REMEMBERED))

    def lag_since(self, second: float) -> float:
        return sum(lag for when, lag in self._lags if when >= second)

    def control(self, latency: float) -> None:
        self._controls.append(latency)

    def lost(self, rule: str, message: str) -> None:
        self._lost.append((rule, message))

    async def run(self) -> None:
        while True:
            sys.stdout.write(json.dumps({"controls": self._controls, "lost": self._lost}) + "\n")
            sys.stdout.flush()
            self._controls, self._lost = [], []
            due = trio.current_time() + _TELL
            await trio.sleep_until(due)
            now = trio.current_time()
            self._lags.append((now, now - due))


async def _talk(order: Order) -> None:
    network = await resolve(order.target.host, order.target.port, tls=order.target.secure)
    teller = _Teller(order.bounds)
    async with trio.open_nursery() as nursery:
        for number in range(order.bounds.controls):
            control = Control(number, order.kind, order.tag, network, order.target, teller)
            await nursery.start(control.run)
        nursery.start_soon(teller.run)


def main() -> None:
    """Be that process."""
    try:
        trio.run(_talk, Order.loads(sys.stdin.readline()))
    except* (BrokenPipeError, KeyboardInterrupt):
        # Nobody listens any more. Python would complain when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
