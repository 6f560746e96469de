"""The model of an upgrade: four states, one answer, and what may happen on the way.

In: what is tried and what happens. Out: what must come of it. The rule: an upgrade that is decided
stays as it is; who comes later is told so, and no byte is written for him.
"""

import enum

import attrs
from hypothesis import strategies as st

from tests.properties.decisions import Answer, Decision, Refuse, Status, decisions
from trio_gateway import Connection, Refusal, UpgradeState

PENDING, ACCEPTED = UpgradeState.PENDING, UpgradeState.ACCEPTED
REJECTED, ABANDONED = UpgradeState.REJECTED, UpgradeState.ABANDONED

MAX_EARLY_BYTES = 64
REFUSAL = Refusal(429, "slow_down", "come back later", (("Retry-After", "7"),))


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
        return self.eof or self.sent >= MAX_EARLY_BYTES

    def answer_to(self, event: Event) -> Answer | None:
        """Return what the gateway answers by itself to an event before the decision."""
        if event is Event.REFUSE:
            return Refuse(REFUSAL)
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
