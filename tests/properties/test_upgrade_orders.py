"""All orders of the few steps that matter to an upgrade, one by one: nothing is left to chance.

The machine (``test_upgrade_machine.py``) draws what may happen; here the steps are few, and every
order of every choice of them is run, on virtual TCP and virtual time, through the pump. Between two
steps either everything settles, or nothing else runs: then the next step meets what the last one
left in the kernel, in the wheel, in a checkpoint. Whoever decides has called before the first step,
and stands at the checkpoint before deciding.
"""

import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import permutations, product
from typing import Any

import attrs
import outcome
import pytest
import trio
import trio.testing

from tests.properties.decisions import KEY
from tests.properties.oracle import CLOSE, read_wire
from tests.properties.scheduling import schedule
from trio_gateway import (
    Gateway,
    Heartbeat,
    Timeouts,
    Upgrade,
    UpgradeAbandoned,
    UpgradeAlreadyDecided,
    UpgradeState,
)
from trio_gateway.testing import VirtualNet, VirtualStream

_HEAD = (
    b"GET /x HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)
_TEXT = b"\x81\x85\0\0\0\0hello"
_TIMEOUTS = Timeouts(
    handshake_timeout=3, decision_timeout=3, closing_timeout=2, linger_timeout=0.5, send_timeout=2
)
_SETTLED = 9.0  # longer than all of them together
PENDING, ACCEPTED = UpgradeState.PENDING, UpgradeState.ACCEPTED
REJECTED, ABANDONED = UpgradeState.REJECTED, UpgradeState.ABANDONED

STEPS = (
    "accept",
    "reject",
    "accept again",
    "FIN",
    "RST",
    "deadline",
    "drain",
    "second request",
    "text",
    "return",
)
_DECISIVE = {"RST", "deadline", "drain", "return"}


@attrs.frozen
class Order:
    """Steps, and whether everything settles behind each.

    Attributes:
        settles: as many as there are steps; the last is always settled behind.
        scheduling: the seed of the order in which Trio runs what runs between two steps.
    """

    steps: tuple[str, ...]
    settles: tuple[bool, ...]
    scheduling: int = 0

    def __str__(self) -> str:
        parts = zip(self.steps, self.settles, strict=True)
        return "".join(f"{step}{' | ' if settled else ', '}" for step, settled in parts)


def orders(
    most: int, *, least: int = 1, mixed: bool = True, schedulings: tuple[int, ...] = (0, 1)
) -> Iterator[Order]:
    """Yield all orders of up to so many steps.

    Arguments:
        most: steps.
        least: steps.
        mixed: settle behind some and not behind others, in every way; else behind all or none.
        schedulings: seeds, each for every order in which something does not settle.
    """
    for count in range(least, most + 1):
        patterns: list[tuple[bool, ...]] = [(True,) * (count - 1), (False,) * (count - 1)]
        if mixed:
            patterns = list(product((True, False), repeat=count - 1))
        for steps in permutations(STEPS, count):
            for settles in dict.fromkeys(patterns):
                for scheduling in schedulings[:1] if all(settles) else schedulings:
                    yield Order(steps, (*settles, True), scheduling)


class Decision:
    """A call of ``accept()`` or ``reject()`` that stands at its checkpoint until it is let go."""

    def __init__(self, name: str, call: Coroutine[Any, Any, object]) -> None:
        self.name = name
        self.result: object = None
        self._call = call
        self._call.send(None)

    def decide(self) -> None:
        """Let it pass the checkpoint; it then decides in one piece."""
        try:
            self._call.send(outcome.Value(None))
        except StopIteration as stop:
            self.result = stop.value
        except Exception as error:
            self.result = error
        else:
            raise AssertionError("a decision has more than one checkpoint")

    @property
    def won(self) -> bool:
        """Whether it was the decision."""
        return not isinstance(self.result, Exception)


class Room:
    """A gateway with one client, whose upgrade waits to be decided."""

    client: VirtualStream
    upgrade: Upgrade

    def __init__(self, order: Order) -> None:
        self.order = order
        self.net = VirtualNet()
        self.listener = self.net.listen()
        self.gateway = Gateway(
            self._handle,
            [self.listener],
            timeouts=_TIMEOUTS,
            heartbeat=Heartbeat(interval=math.inf),
        )
        self.handlers = 0
        self.returning = trio.Event()
        self.decisions: dict[str, Decision] = {}
        self.wire = bytearray()

    async def run(self) -> None:
        """Do all steps, then look at what came of them."""
        schedule(self.order.scheduling)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.gateway.run)
            self.client = await self.net.connect(self.listener.address)
            nursery.start_soon(self._read)
            await self.client.send_all(_HEAD)
            await trio.testing.wait_all_tasks_blocked()
            self._call_all()
            for step, settles in zip(self.order.steps, self.order.settles, strict=True):
                self._do(step, nursery)
                if settles:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(_SETTLED)
            self.returning.set()
            await trio.sleep(_SETTLED)
            self._check()
            self.client.reset()
            await trio.testing.wait_all_tasks_blocked()
            self._check_given_back()
            nursery.cancel_scope.cancel()
        assert 0 == self.net.descriptors

    async def _handle(self, upgrade: Upgrade) -> None:
        self.upgrade = upgrade
        self.handlers += 1
        await self.returning.wait()

    async def _read(self) -> None:
        try:
            async for data in self.client:
                self.wire += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def _call_all(self) -> None:
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "accept": self.upgrade.accept,
            "accept again": self.upgrade.accept,
            "reject": lambda: self.upgrade.reject(403),
        }
        for step in self.order.steps:
            if step in calls:
                self.decisions[step] = Decision(step, calls[step]())

    def _do(self, step: str, nursery: trio.Nursery) -> None:
        match step:
            case "FIN":
                self.client.shut_down()
            case "RST":
                self.client.reset()
            case "deadline":
                clock = trio.lowlevel.current_clock()
                assert isinstance(clock, trio.testing.MockClock)
                clock.jump(_TIMEOUTS.decision_timeout + 1)
            case "drain":
                nursery.start_soon(self.gateway.drain, 10 * _SETTLED)
            case "second request":
                self._send(_HEAD)
            case "text":
                self._send(_TEXT)
            case "return":
                self.returning.set()
            case _:
                self.decisions[step].decide()

    def _send(self, data: bytes) -> None:
        try:
            self.client.socket.send(data)
        except OSError:
            pass  # this end is closed, or the other

    # What must have come of it.

    def _check(self) -> None:
        statistics, state = self.gateway.statistics(), self.upgrade.state
        assert 1 == self.handlers
        assert state is not PENDING
        assert (state is ACCEPTED) == statistics.upgrades_accepted
        assert (state is REJECTED) == statistics.upgrades_rejected
        assert (state is ABANDONED) == statistics.upgrades_abandoned
        self._check_decisions()
        self._check_wire()

    def _check_decisions(self) -> None:
        state = self.upgrade.state
        won = [each.name for each in self.decisions.values() if each.won]
        assert len(won) <= 1
        if won:
            assert state is (REJECTED if won == ["reject"] else ACCEPTED)
        prevented = 0
        for each in self.decisions.values():
            if isinstance(each.result, UpgradeAbandoned):
                assert state is ABANDONED
            elif not each.won:
                assert isinstance(each.result, UpgradeAlreadyDecided)
                assert state in (ACCEPTED, REJECTED)
                prevented += 1
        assert prevented == self.gateway.statistics().duplicate_upgrades_prevented
        first, reset = self._first()
        if first is None:
            assert [] == won
        elif not reset or first == "reject":
            assert [first] == won
        else:  # its 101 cannot be written
            assert state is ABANDONED

    def _first(self) -> tuple[str | None, bool]:
        """Return the decision that must win, None where something else came first.

        And whether the client was gone already, which nobody had seen.
        """
        happened = set[str]()
        for step, settles in zip(self.order.steps, self.order.settles, strict=True):
            if step in self.decisions:
                return step, "RST" in happened
            if step in _DECISIVE:
                happened.add(step)
            if settles and happened:
                return None, False
        return None, False

    def _check_wire(self) -> None:
        wire, state = read_wire(bytes(self.wire)), self.upgrade.state
        if "RST" in self.order.steps:
            assert len(wire.responses) <= 1
            return
        assert b"" == wire.cut
        assert len(wire.responses) == (state is not ABANDONED)
        assert (wire.upgrade is not None) == (state is ACCEPTED)
        # At the latest the handler's return has closed it, unless the peer's end of file had.
        assert [frame.opcode for frame in wire.frames] in ([], [CLOSE])

    def _check_given_back(self) -> None:
        statistics = self.gateway.statistics()
        assert (0, 0, 0, 0, 0) == (
            statistics.sockets,
            statistics.connections,
            statistics.handlers,
            statistics.pending_handshakes,
            statistics.pending_upgrades,
        )
        assert 0 == self.gateway._reception.admission.connections
        assert 0 == len(self.gateway._timers)
        listening = 0 if self.gateway.draining else 2  # the listener's, and the gateway's copy
        assert listening == self.net.descriptors


def explore(some: Iterable[Order], logged: list[logging.LogRecord]) -> int:
    """Run them all; return how many there were."""
    count = 0

    async def run_all() -> None:
        nonlocal count
        for order in some:
            try:
                await Room(order).run()
                assert [] == logged
            except BaseException as error:
                error.add_note(f"in {order} ({order})")
                raise
            count += 1

    trio.run(run_all, clock=trio.testing.MockClock(autojump_threshold=0))
    return count


class _Kept(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What the gateway logs as an error."""
    handler = _Kept(logging.ERROR)
    logger = logging.getLogger("trio_gateway")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def test_every_order_of_three_steps(logged: list[logging.LogRecord]) -> None:
    """One answer, no HTTP behind a 101, one final state, everything given back: in 1,630 orders."""
    few = orders(3, mixed=False, schedulings=(0,))
    assert 10 + 90 * 2 + 720 * 2 == explore(few, logged)


@pytest.mark.long
def test_every_order_of_four_steps(logged: list[logging.LogRecord]) -> None:
    """The same with a fourth, each way of settling between them, in 80,640 orders."""
    assert 720 * (1 + 3 * 2) + 5_040 * (1 + 7 * 2) == explore(orders(4, least=3), logged)


@pytest.mark.long
def test_every_order_of_five_steps(logged: list[logging.LogRecord]) -> None:
    """The same with a fifth, settled behind all steps or none."""
    assert 30_240 * (1 + 2) == explore(orders(5, least=5, mixed=False), logged)
