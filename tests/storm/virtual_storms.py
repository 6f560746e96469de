"""Storms that Hypothesis draws and shrinks: a few clients, what the network is like, the order.

In: Hypothesis. Out: a ``Case``, and what came of it. The rule: everything that a run depends on is
in its case, the order in which Trio runs its tasks too.
"""

import math
import random

import attrs
import trio
import trio.testing
from hypothesis import strategies as st

from tests.properties.scheduling import orders, schedule
from trio_gateway import Compression, Gateway, Heartbeat, Limits, Router, Timeouts, Upgrade
from trio_gateway.storm import FAULTS, Program, Script
from trio_gateway.storm.draw import Draw
from trio_gateway.storm.octets import (
    CLOSE,
    PING,
    SECOND_UPGRADE,
    TEXT,
    UPGRADE,
    close,
    frame,
    plain,
    text,
)
from trio_gateway.storm.program import (
    Close,
    Connect,
    Expect,
    HalfClose,
    Reset,
    Send,
    Sip,
    Step,
    StopReading,
    Wait,
)
from trio_gateway.storm.virtual import VirtualRun, run_virtual
from trio_gateway.testing import Conditions, VirtualListener

_OWN = "a script of Hypothesis's own"
_MOST_SEGMENTS = 100
_MOST_WINDOWS = 16  # so that nothing is late for the line's sake
_MOST_BYTES = 30_000  # of one client; more takes time, and shows nothing more


@attrs.frozen
class Case:
    """One storm in its world."""

    program: Program
    conditions: Conditions
    descriptors: float
    backlog: int
    order: int
    settings: str

    def run(self) -> VirtualRun:
        """Run it; the same case gives the same."""
        schedule(self.order)

        async def main() -> VirtualRun:
            return await run_virtual(
                self.program,
                _GATEWAYS[self.settings],
                conditions=self.conditions,
                max_descriptors=self.descriptors,
                backlog=self.backlog,
            )

        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def _echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


async def _echo_later(upgrade: Upgrade) -> None:
    await trio.sleep(random.choice((0.001, 0.02, 0.1)))
    await _echo(upgrade)


def _usual(listener: VirtualListener) -> Gateway:
    return Gateway(_echo, [listener])


def _tight(listener: VirtualListener) -> Gateway:
    """A gateway where every limit is near."""
    router = Router()
    router.route("/", _echo_later)
    return Gateway(
        router,
        [listener],
        limits=Limits(max_queued_bytes=2_000, max_early_bytes=200, max_outbox_bytes=20_000),
        timeouts=Timeouts(send_timeout=5, closing_timeout=3, linger_timeout=0.5),
        heartbeat=Heartbeat(interval=2, pong_timeout=2),
        compression=Compression(min_bytes=8),
        receive_buffer_size=64,
    )


_GATEWAYS = {"usual": _usual, "tight": _tight}

_SENDS = [
    Send(UPGRADE, note="upgrade"),
    Send(SECOND_UPGRADE, note="second upgrade"),
    Send(UPGRADE + text("early"), note="upgrade, text"),
    Send(plain(b"GET / HTTP/1.1"), note="GET"),
    Send(plain(b"POST / HTTP/1.1", b"Content-Length: 5", body=b"hello"), note="POST"),
    Send(text("hello"), note="text"),
    Send(text("x" * 500), times=20, note="texts"),
    Send(frame(TEXT, b"frag", fin=False), note="fragment"),
    Send(frame(PING, b"ping"), note="ping"),
    Send(frame(PING, b"p" * 125), times=50, note="pings"),
    Send(close(1000), note="Close"),
    Send(frame(CLOSE), note="Close without a code"),
    Send(close(1005), note="bad Close"),
    Send(b"\x81\x02hi", note="unmasked"),
    Send(b"\0", note="NUL"),
]


def _segmented(send: Send, cuts: tuple[int, ...], gap: float) -> Send:
    return attrs.evolve(send, cuts=cuts, gap=gap)


_steps: st.SearchStrategy[Step] = st.one_of(
    st.sampled_from(_SENDS),
    st.builds(
        _segmented,
        st.sampled_from(_SENDS),
        st.lists(st.integers(1, 200), max_size=3).map(lambda cuts: tuple(sorted(set(cuts)))),
        st.sampled_from([0.0, 0.01]),
    ),
    st.builds(
        Expect,
        st.sampled_from(["upgrade", "answer", "message", "pong", "close", "end"]),
        st.just(2.0),
    ),
    st.builds(Wait, st.sampled_from([0.0, 0.001, 0.05, 1.0, 12.0])),
    st.sampled_from(
        [
            Connect(),
            Connect(window=256),
            StopReading(),
            Sip(16, 0.05, 1.0),
            HalfClose(),
            Close(),
            Reset(),
        ]
    ),
)
# With these a script takes up to a tenth of a second, and shows nothing more here.
_LONG = {
    "slow-loris",
    "tiny-fragments",
    "descriptor-exhaustion",
    "never-reader",
    "slow-reader",
    "huge-head",
}
_NAMES = [name for name, fault in FAULTS.items() if fault.needs is None and name not in _LONG]


def _of_fault(client: int, name: str, seed: int, start: float) -> Script:
    fault = FAULTS[name]
    return Script(client, name, start, fault.script(Draw(seed)), polite=fault.polite)


def _own(client: int, steps: list[Step], start: float, polite: bool) -> Script:
    return Script(client, _OWN, start, (Connect(), *steps), polite=polite)


_starts = st.sampled_from([0.0, 0.001, 0.5])


def _is_small(script: Script) -> bool:
    sent = sum(len(step.data) * step.times for step in script.steps if isinstance(step, Send))
    return sent <= _MOST_BYTES


def _scripts(client: int) -> st.SearchStrategy[Script]:
    return st.one_of(
        st.builds(
            _of_fault, st.just(client), st.sampled_from(_NAMES), st.integers(0, 999), _starts
        ),
        st.builds(_own, st.just(client), st.lists(_steps, max_size=8), _starts, st.booleans()),
    ).filter(_is_small)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a storm of up to three clients."""
    scripts = tuple(draw(_scripts(client)) for client in range(draw(st.integers(1, 3))))
    program = Program(seed=draw(st.integers(0, 99)), duration=1.0, rate=1000.0, scripts=scripts)
    segment = draw(st.sampled_from([65536, 1460, 100, 7, 1]))
    least = program.sent_bytes // _MOST_WINDOWS
    buffers = st.sampled_from([65536, 4096, 300]).map(lambda size: max(size, least))
    conditions = Conditions(
        latency=draw(st.sampled_from([0.0, 0.0, 0.0005, 0.03])),
        jitter=draw(st.sampled_from([0.0, 0.0, 0.002, 0.05])),
        bandwidth=draw(st.sampled_from([math.inf, math.inf, 1e6, 1e5])),
        loss=draw(st.sampled_from([0.0, 0.0, 0.1])),
        segment=max(segment, program.sent_bytes // _MOST_SEGMENTS),
        send_buffer=draw(buffers),
        receive_buffer=draw(buffers),
        client_buffer=draw(buffers),
    )
    return Case(
        program=program,
        conditions=conditions,
        descriptors=draw(st.sampled_from([math.inf, math.inf, 5.0])),
        backlog=draw(st.sampled_from([128, 128, 1])),
        order=draw(orders),
        settings=draw(st.sampled_from(["usual", "tight"])),
    )
