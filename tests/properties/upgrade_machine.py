"""The machine: one upgrade, and whatever may happen to it, in any order and at once.

In: rules drawn by Hypothesis. Out: AssertionError where the gateway leaves the model. The upgrade
is a real one, of a gateway that runs over memory. The rule: the model sees what a client sees, and
what the exceptions say.
"""

import math

import trio
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from trio_websocket import ConnectionClosed

from tests.properties.decisions import (
    KEY,
    SUBPROTOCOLS,
    Accept,
    Answer,
    Decision,
    Status,
    decisions,
)
from tests.properties.guest import GuestRun
from tests.properties.oracle import CLOSE, read_wire
from tests.properties.scheduling import orders, schedule
from tests.properties.upgrade_model import (
    ABANDONED,
    ACCEPTED,
    MAX_EARLY_BYTES,
    PENDING,
    REFUSAL,
    REJECTED,
    Attempt,
    Cancelled,
    Event,
    Model,
    Outcome,
    attempts,
)
from trio_gateway import (
    Connection,
    Heartbeat,
    InvalidResponse,
    Limits,
    Timeouts,
    Upgrade,
    UpgradeAbandoned,
    UpgradeAlreadyDecided,
    UpgradeState,
)
from trio_gateway.testing import MemoryStream, OpenGateway, open_gateway

_HEAD = (
    b"GET /x?y=1 HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
    b"Sec-WebSocket-Protocol: " + SUBPROTOCOLS + b"\r\n\r\n"
)
_DECISION_TIMEOUT = 60.0


def _frame(number: int) -> bytes:
    """A client's text frame, masked with zeros."""
    return b"\x81\x84\0\0\0\0" + b"m%03d" % number


_STREAM = b"".join(_frame(number) for number in range(200))
_FRAME_SIZE = len(_frame(0))


class UpgradeMachine(RuleBasedStateMachine):
    """One upgrade, everything that may happen to it, in any order and at once."""

    server: OpenGateway
    client: MemoryStream
    upgrade: Upgrade

    def __init__(self) -> None:
        super().__init__()
        self.run = GuestRun()
        self.model = Model()
        self.wire = bytearray()
        self.handlers = 0
        self.running = False
        self.end_handler, self.endings = trio.open_memory_channel[Event](math.inf)
        self.connection: Connection | None = None
        self.messages: list[str | bytes] = []

    @initialize(rest=st.integers(0, 40), cut=st.integers(1, len(_HEAD)), order=orders)
    def connect(self, rest: int, cut: int, order: int) -> None:
        """A client asks, with early frames right behind the head."""
        schedule(order)
        self.run.nursery.start_soon(self._serve)
        self.run.settle()
        self.client = self.run.do(self.server.connect)
        self.run.nursery.start_soon(self._read_wire)
        self.run.do(self.client.send_all, _HEAD[:cut])
        self.run.do(self.client.send_all, _HEAD[cut:] + _STREAM[:rest])
        self.model.sent = rest
        assert self.handlers == 1
        # The deadline is near, so that its passing takes no other one along.
        self.run.clock.jump(_DECISION_TIMEOUT - 0.5)

    # Rules.

    @rule(decision=decisions)
    def decide(self, decision: Decision) -> None:
        """One task decides, or tries to."""
        self._race([Attempt(decision)], [], 0)

    @rule(event=st.sampled_from(Event))
    def happen(self, event: Event) -> None:
        """Something happens while nobody decides."""
        self._race([], [event], 0)

    @rule(
        attempts=st.lists(attempts, min_size=1, max_size=4),
        events=st.lists(st.sampled_from(Event), max_size=2, unique=True),
        order=orders,
    )
    def race(self, attempts: list[Attempt], events: list[Event], order: int) -> None:
        """Several tasks decide at once, while something else happens."""
        self._race(attempts, events, order)

    @precondition(lambda self: not self.model.gone and not self.model.eof)
    @rule(size=st.integers(1, 40))
    def send(self, size: int) -> None:
        """The client sends more of its frames, cut anywhere."""
        data = _STREAM[self.model.sent : self.model.sent + size]
        try:
            self.run.do(self.client.send_all, data)
        except trio.BrokenResourceError:
            assert self.model.state is not PENDING
        self.model.sent += size

    # What must hold between any two rules.

    @invariant()
    def the_state_is_the_models(self) -> None:
        """The token, and what the gateway counts, are in the state of the model."""
        model, statistics = self.model, self.server.gateway.statistics()
        assert model.state is self.upgrade.state
        assert (model.state is PENDING) == statistics.pending_upgrades
        assert (model.state is ACCEPTED) == statistics.upgrades_accepted
        assert (model.state is REJECTED) == statistics.upgrades_rejected
        assert (model.state is ABANDONED) == statistics.upgrades_abandoned
        assert model.prevented == statistics.duplicate_upgrades_prevented
        assert (not model.handler_ended) == statistics.handlers
        assert (model.state is ACCEPTED) == (self.connection is not None)
        assert self.upgrade.connection is self.connection

    @invariant()
    def the_wire_has_the_one_answer(self) -> None:
        """Nothing before the decision; then the answer, once, and nothing but frames behind."""
        wire = read_wire(bytes(self.wire))
        if self.model.gone:
            # Some of it may be lost, nothing may be added.
            assert len(wire.responses) <= (self.model.answer is not None)
            return
        assert b"" == wire.cut
        assert len(wire.responses) == (self.model.answer is not None)
        if self.model.answer is not None:
            self.model.answer.check(wire.responses[0])
        assert [frame.opcode for frame in wire.frames] in ([], [CLOSE])
        if wire.close is not None:
            assert wire.close.code in self.model.closing

    @invariant()
    def early_frames_are_the_connections(self) -> None:
        """Frames from before and after the decision come in order, each once, if accepted."""
        expected = [f"m{number:03}" for number in range(self.model.sent // _FRAME_SIZE)]
        if self.model.state is not ACCEPTED:
            expected = []
        elif self.model.gone or self.model.closing:
            expected = expected[: len(self.messages)]
        assert expected == self.messages

    def teardown(self) -> None:
        """Whatever has happened, the gateway ends and nothing is left."""
        self.run.close()
        if hasattr(self, "server"):
            statistics = self.server.gateway.statistics()
            assert (0, 0, 0, 0) == (
                statistics.sockets,
                statistics.connections,
                statistics.handlers,
                statistics.pending_handshakes,
            )

    # The world.

    async def _serve(self) -> None:
        async with open_gateway(
            self._handle,
            limits=Limits(max_early_bytes=MAX_EARLY_BYTES),
            timeouts=Timeouts(decision_timeout=_DECISION_TIMEOUT),
            heartbeat=Heartbeat(interval=math.inf),
        ) as self.server:
            await trio.sleep_forever()

    async def _handle(self, upgrade: Upgrade) -> None:
        self.upgrade = upgrade
        self.handlers += 1
        self.running = True
        try:
            ending = await self.endings.receive()
        finally:
            self.running = False
        if ending is Event.RAISE:
            raise RuntimeError("the handler fails")

    async def _read_wire(self) -> None:
        try:
            async for data in self.client:
                self.wire += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _read_messages(self, connection: Connection) -> None:
        async for message in connection:
            self.messages.append(message)

    # A race, and who has won it.

    def _race(self, attempts: list[Attempt], events: list[Event], order: int) -> None:
        schedule(order)
        before = self.model.state
        outcomes = self.run.do(self._run_race, attempts, events)
        if before is PENDING:
            self._find_decision(attempts, outcomes, events)
        for attempt, outcome in zip(attempts, outcomes, strict=True):
            self._check_outcome(attempt, outcome, before)
        for event in events:
            self.model.note(event)
        self.model.handler_ended |= not {Event.RETURN, Event.RAISE}.isdisjoint(events)
        self._check_handler(before, events)

    def _check_handler(self, before: UpgradeState, events: list[Event]) -> None:
        """The gateway ends a handler that it has decided for, or whose peer has long left."""
        model = self.model
        decided_for = before is PENDING and model.answer == Status(503)
        overdue = before is ABANDONED and Event.DEADLINE in events
        assert not (self.running and (decided_for or overdue))
        if not self.running and not model.handler_ended:
            assert not {Event.DEADLINE, Event.DRAIN}.isdisjoint(events)
            assert before in {PENDING, ABANDONED}
            assert model.state in {REJECTED, ABANDONED}
            model.handler_ended = True

    async def _run_race(self, attempts: list[Attempt], events: list[Event]) -> list[Outcome]:
        outcomes: list[Outcome] = [None] * len(attempts)
        async with trio.open_nursery() as nursery:
            for number, attempt in enumerate(attempts):
                nursery.start_soon(self._attempt, nursery, attempt, number, outcomes)
            for event in events:
                nursery.start_soon(self._happen, event)
        return outcomes

    async def _attempt(
        self, nursery: trio.Nursery, attempt: Attempt, number: int, outcomes: list[Outcome]
    ) -> None:
        with trio.CancelScope() as scope:
            if attempt.cancelled_after == 0:
                scope.cancel()
            elif attempt.cancelled_after is not None:
                nursery.start_soon(_cancel_after, scope, attempt.cancelled_after)
            try:
                connection = outcomes[number] = await attempt.decision.call(self.upgrade)
            except Exception as error:
                outcomes[number] = error
            else:
                if connection is not None:
                    assert self.connection is None
                    self.connection = connection
                    self.run.nursery.start_soon(self._read_messages, connection)
        if scope.cancelled_caught:
            outcomes[number] = Cancelled()

    async def _happen(self, event: Event) -> None:
        match event:
            case Event.RESET:
                self.client.send_stream.reset()
            case Event.EOF:
                await self.client.send_eof()
            case Event.REFUSE:
                pending = self.upgrade.state is PENDING
                assert pending == self.upgrade.refuse(REFUSAL)
            case Event.DEADLINE:
                self.run.clock.jump(1.0 if self.model.state is PENDING else _DECISION_TIMEOUT + 1)
            case Event.DRAIN:
                self.run.nursery.start_soon(self.server.gateway.drain, 1e6)
            case _:
                self.end_handler.send_nowait(event)

    def _find_decision(
        self, attempts: list[Attempt], outcomes: list[Outcome], events: list[Event]
    ) -> None:
        """Find the one decision, among those that were possible, that explains the state."""
        model, state = self.model, self.upgrade.state
        won = [
            attempt.decision
            for attempt, outcome in zip(attempts, outcomes, strict=True)
            if not isinstance(outcome, Exception | Cancelled)
        ]
        assert len(won) <= 1
        answers = [answer for event in events if (answer := model.answer_to(event)) is not None]
        resets = Event.RESET in events and not model.deaf
        if won:
            assert won[0].valid
            assert state is (ACCEPTED if isinstance(won[0], Accept) else REJECTED)
            model.answer = won[0]
        elif state is REJECTED:
            model.answer = self._find_answer(answers)
        elif state is ABANDONED:
            assert resets
        else:
            assert state is PENDING
            assert not answers
            assert not resets or Event.EOF in events
            assert all(
                attempt.cancelled_after is not None
                for attempt in attempts
                if attempt.decision.valid
            )
        model.state = state

    def _find_answer(self, answers: list[Answer]) -> Answer:
        """Return which of the possible answers has been given."""
        assert answers
        if len(answers) == 1 or self.model.gone:
            return answers[0]
        (response,) = read_wire(bytes(self.wire)).responses
        for answer in answers:
            try:
                answer.check(response)
            except AssertionError:
                continue
            return answer
        raise AssertionError(f"{response} is none of {answers}")

    def _check_outcome(self, attempt: Attempt, outcome: Outcome, before: UpgradeState) -> None:
        """The exception says what is wrong, and that somebody else has decided, if so."""
        model = self.model
        if not attempt.decision.valid:
            assert isinstance(outcome, InvalidResponse)
        elif isinstance(outcome, Cancelled):
            assert attempt.cancelled_after is not None
        elif isinstance(outcome, Exception):
            assert attempt.cancelled_after != 0
            assert isinstance(outcome, UpgradeAlreadyDecided)
            assert outcome.state is model.state
            assert (model.state is ABANDONED) == isinstance(outcome, UpgradeAbandoned)
            assert (model.state is ABANDONED) == isinstance(outcome, ConnectionClosed)
            model.prevented += model.state is not ABANDONED
        else:
            assert before is PENDING
            assert attempt.cancelled_after != 0


async def _cancel_after(scope: trio.CancelScope, ticks: int) -> None:
    for _ in range(ticks - 1):
        await trio.lowlevel.checkpoint()
    scope.cancel()
