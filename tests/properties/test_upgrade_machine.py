"""An upgrade can be spent once: a state machine holds ``Upgrade`` to a model of four states.

The upgrade is a real one, of a gateway that runs over memory; the model sees what a client sees,
and what the exceptions say.
"""

import enum
import math
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from trio_websocket import ConnectionClosed

from tests.properties.guest import GuestRun
from tests.properties.oracle import CLOSE, Response, accept_token, read_wire
from tests.properties.scheduling import orders, schedule
from trio_gateway import (
    Connection,
    Heartbeat,
    InvalidResponse,
    Limits,
    Refusal,
    Timeouts,
    Upgrade,
    UpgradeAbandoned,
    UpgradeAlreadyDecided,
    UpgradeState,
)
from trio_gateway.handshake import upgrade as upgrade_module
from trio_gateway.testing import MemoryStream, OpenGateway, open_gateway

PENDING, ACCEPTED = UpgradeState.PENDING, UpgradeState.ACCEPTED
REJECTED, ABANDONED = UpgradeState.REJECTED, UpgradeState.ABANDONED

_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_HEAD = (
    b"GET /x?y=1 HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + _KEY + b"\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\n\r\n"
)
_MAX_EARLY_BYTES = 64
_DECISION_TIMEOUT = 60.0
_REFUSAL = Refusal(429, "slow_down", "come back later", (("Retry-After", "7"),))


def _frame(number: int) -> bytes:
    """A client's text frame, masked with zeros."""
    return b"\x81\x84\0\0\0\0" + b"m%03d" % number


_STREAM = b"".join(_frame(number) for number in range(200))
_FRAME_SIZE = len(_frame(0))

# Decisions, as values.


@attrs.frozen
class Accept:
    """A call of ``accept()``."""

    subprotocol: Any = None
    headers: Any = None

    @property
    def valid(self) -> bool:
        return self.subprotocol in {None, "chat", "superchat"} and self.headers in _GOOD_HEADERS

    async def call(self, upgrade: Upgrade) -> Connection | None:
        return await upgrade.accept(subprotocol=self.subprotocol, extra_headers=self.headers)

    def check(self, response: Response) -> None:
        assert response.status == 101
        assert response.header(b"sec-websocket-accept") == accept_token(_KEY)
        expected = None if self.subprotocol is None else self.subprotocol.encode()
        assert response.header(b"sec-websocket-protocol") == expected
        _check_headers(response, self.headers)


@attrs.frozen
class Reject:
    """A call of ``reject()``."""

    status: Any = 403
    headers: Any = None
    body: Any = None

    @property
    def valid(self) -> bool:
        return (
            type(self.status) is int
            and self.status in _GOOD_STATUS
            and self.headers in _GOOD_HEADERS
            and (self.body is None or isinstance(self.body, bytes))
        )

    async def call(self, upgrade: Upgrade) -> Connection | None:
        await upgrade.reject(self.status, extra_headers=self.headers, body=self.body)
        return None

    def check(self, response: Response) -> None:
        assert response.status == self.status
        if self.status in {204, 205, 304} or (self.body is None and self.headers == _TYPED):
            assert response.body == b""
        elif self.body is None:
            assert response.body.startswith(b'{"error":')
        else:
            assert response.body == self.body
        _check_headers(response, self.headers)


@attrs.frozen
class Refuse:
    """What the gateway itself answers."""

    refusal: Refusal

    def check(self, response: Response) -> None:
        assert (response.status, response.body) == (
            self.refusal.status,
            self.refusal.render().partition(b"\r\n\r\n")[2],
        )


@attrs.frozen
class Status:
    """An answer of which the status is all that is known."""

    status: int

    def check(self, response: Response) -> None:
        assert response.status == self.status


Decision = Accept | Reject
Answer = Decision | Refuse | Status


def _check_headers(response: Response, headers: list[tuple[bytes, bytes]] | None) -> None:
    for name, value in headers or []:
        assert (name.lower(), value.strip(b" \t")) in response.headers


_TYPED = [(b"Content-Type", b"text/html")]
_GOOD_HEADERS: list[Any] = [
    None,
    [],
    [(b"x-a", b"1")],
    [(b"X-A", b"1"), (b"x-a", b"2"), (b"Set-Cookie", b"a=b; Path=/")],
    [(b"x-latin", b"caf\xe9"), (b"x-empty", b"")],
    _TYPED,
]
_BAD_HEADERS: list[Any] = [
    [(b"x-a", b"1\r\nHTTP/1.1 200 OK")],
    [(b"x-a\r\n\r\n", b"1")],
    [(b"x a", b"1")],
    [(b"", b"1")],
    [(b"x-a", b"\0")],
    [(b"x-a", b"1\n")],
    [("x-a", "1")],
    [(b"x-a", b"1"), (b"Connection", b"keep-alive")],
    [(b"content-length", b"7")],
    [(b"Transfer-Encoding", b"chunked")],
]
_GOOD_STATUS = (200, 204, 205, 302, 304, 400, 401, 403, 404, 418, 429, 451, 500, 503, 599)
_BAD_STATUS: list[Any] = [100, 101, 199, 600, 999, 0, -1, True, "403", 403.0, None]
_BODIES = [None, b"", b"no\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"x" * 5000]

_headers = st.sampled_from(_GOOD_HEADERS)
good_accepts = st.builds(Accept, st.sampled_from([None, "chat", "superchat"]), _headers)
good_rejects = st.builds(Reject, st.sampled_from(_GOOD_STATUS), _headers, st.sampled_from(_BODIES))
bad_decisions: st.SearchStrategy[Decision] = st.sampled_from(
    [
        *(Accept(name) for name in ("other", "Chat", "", "ch\r\nat", "é", 7, b"chat")),
        *(Accept("chat", headers) for headers in _BAD_HEADERS),
        *(Reject(status) for status in _BAD_STATUS),
        *(Reject(403, headers, b"no\n") for headers in _BAD_HEADERS),
        Reject(403, None, "text"),
    ]
)
decisions = st.one_of(good_accepts, good_rejects, bad_decisions)


class Event(enum.Enum):
    """What else may happen while somebody decides."""

    RESET = "the peer resets the connection"
    EOF = "the peer sends its end of file"
    REFUSE = "the gateway refuses"
    DEADLINE = "the decision deadline passes"
    DRAIN = "the gateway is drained"
    RETURN = "the handler returns"
    RAISE = "the handler raises"


@attrs.frozen
class Attempt:
    """A decision tried by a task of its own, perhaps cancelled.

    Attributes:
        cancelled_after: before it begins (0), or at its checkpoint, or too late; None for never.
    """

    decision: Decision
    cancelled_after: int | None = None


attempts = st.builds(Attempt, decisions, st.none() | st.integers(0, 3))


class Cancelled:
    """The outcome of an attempt that was cancelled."""


Outcome = Connection | Exception | Cancelled | None


@attrs.define
class Model:
    """What is known of the upgrade without looking at it.

    Attributes:
        answer: what the client has been answered.
        prevented: second decisions so far.
        sent: bytes of frames the client has sent.
        deaf: the gateway cannot see the client leave: it has too many early bytes, or its end of
            file, already.
        gone: the client has reset the connection.
        closing: with which codes the connection may have been closed from our side.
    """

    state: UpgradeState = PENDING
    answer: Answer | None = None
    prevented: int = 0
    sent: int = 0
    eof: bool = False
    gone: bool = False
    draining: bool = False
    handler_ended: bool = False
    closing: set[int] = attrs.Factory(set)

    @property
    def deaf(self) -> bool:
        return self.eof or self.sent >= _MAX_EARLY_BYTES

    def answer_to(self, event: Event) -> Answer | None:
        """Return what the gateway answers by itself to an event before the decision."""
        if event is Event.REFUSE:
            return Refuse(_REFUSAL)
        if event in {Event.DEADLINE, Event.DRAIN}:
            return Status(503)
        if event in {Event.RETURN, Event.RAISE} and not self.handler_ended:
            return Status(503 if self.draining else 500)
        return None

    def note(self, event: Event) -> None:
        """Take down what stays of an event."""
        match event:
            case Event.RESET:
                self.gone = True
            case Event.EOF:
                self.eof = True
            case Event.DRAIN:
                self.draining = True
                self.closing.add(1012)
            case Event.RETURN | Event.RAISE if not self.handler_ended:
                self.closing.add(1000 if event is Event.RETURN else 1011)
            case _:
                pass


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
            limits=Limits(max_early_bytes=_MAX_EARLY_BYTES),
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
                assert pending == self.upgrade.refuse(_REFUSAL)
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


def test_an_upgrade_is_spent_once() -> None:
    """No order of decisions, disturbances and cancellations leads out of the model."""
    _run_machine(settings(stateful_step_count=20))


def _run_machine(how: settings) -> None:
    run_state_machine_as_test(UpgradeMachine, settings=how)


# The guards, broken on purpose: the machine must notice.


def _decide_again(self: Upgrade, state: UpgradeState) -> None:
    self._state = state


def _refuse_again(self: Upgrade, refusal: Refusal) -> bool:
    self._state = REJECTED
    self._answer(refusal.render())
    return True


def _keep_pending(self: Upgrade) -> None:
    pass


async def _decide_too_soon(self: Upgrade, **response: Any) -> Connection:
    self._decide(ACCEPTED)
    await trio.lowlevel.checkpoint()
    self._state = PENDING
    return await _accept(self, **response)


async def _write_early(self: Upgrade, status: int, **response: Any) -> None:
    self.link.outbox.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
    await _reject(self, status, **response)


def _take_nothing(self: Any) -> bytes:
    return b""


def _take_backwards(self: Any) -> bytes:
    return b"".join(reversed(self._chunks))


def _take_any_header(headers: list[tuple[bytes, bytes]] | None, _forbidden: object) -> Any:
    return headers or []


_accept, _reject = Upgrade.accept, Upgrade.reject
_MUTANTS = [
    (Upgrade, "_decide", _decide_again),
    (Upgrade, "refuse", _refuse_again),
    (Upgrade, "abandon", _keep_pending),
    (Upgrade, "accept", _decide_too_soon),
    (Upgrade, "reject", _write_early),
    (upgrade_module._Early, "take", _take_nothing),
    (upgrade_module._Early, "take", _take_backwards),
    (upgrade_module, "_headers", _take_any_header),
]


@pytest.mark.parametrize(
    "where, name, mutant", _MUTANTS, ids=[mutant.__name__ for _, _, mutant in _MUTANTS]
)
def test_the_machine_finds_a_broken_guard(
    where: object, name: str, mutant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps an upgrade to one decision cannot be taken away unseen."""
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(Exception) as caught:  # whatever the machine says
        _run_machine(
            settings(
                max_examples=200,
                stateful_step_count=20,
                phases=[Phase.generate],
                database=None,
                derandomize=True,
                report_multiple_bugs=False,
                suppress_health_check=[HealthCheck.too_slow],
            )
        )
    assert not isinstance(caught.value, HypothesisException)
