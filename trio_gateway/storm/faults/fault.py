"""What a fault is: a name, the failure it stands for, a script, and what a server may do about it.

In: a client's chance. Out: its steps. The rule: an outcome is allowed with its reason or it is a
finding.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Literal

import attrs

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.program import Step

Profile = Literal["any", "gateway"]


@attrs.frozen
class Allowed:
    """An outcome that is no finding.

    Attributes:
        outcome: a pattern of STATUS CLOSE END as ``Outcome`` prints it, ``*`` for anything.
        why: the reason.
        profile: whose privilege it is; None for every server's.
        up_to: for at most so many seconds of the socket's life; None for ever.
    """

    outcome: str
    why: str
    profile: Profile | None = None
    up_to: float | None = None

    def covers(self, outcome: str, profile: Profile, seconds: float) -> bool:
        """Return whether this allows what a server of ``profile`` did on one socket."""
        return (
            self.profile in (None, profile)
            and (self.up_to is None or seconds <= self.up_to)
            and fnmatchcase(outcome, self.outcome)
        )


@attrs.frozen
class Fault:
    """A way in which clients fail.

    Attributes:
        name: as ``--fault`` takes it.
        stands_for: the real failure, one sentence.
        script: makes a client's steps.
        allowed: what a server may do about it.
        polite: whether the client answers pings and Close frames while it reads.
        needs: what must be there: ``"tls"``, a target that speaks it; ``"restart"``, a command.
        weight: how often it is drawn, among the others.
    """

    name: str
    stands_for: str
    script: Callable[[Draw], tuple[Step, ...]]
    allowed: tuple[Allowed, ...]
    polite: bool = True
    needs: Literal["tls", "restart"] | None = None
    weight: int = 4


SHED = (
    Allowed("503 - *", "a server under load or going away says no, and says it in HTTP"),
    Allowed("429 - *", "a server may bound what one address takes"),
    Allowed("101 1013 *", "a server sheds load, or a consumer that is slow for a moment"),
)
"""What every server may answer to everybody."""

REFUSED = (
    Allowed("4?? - *", "the request is refused, RFC 6455 §4.2.1 or RFC 9112 §2.2"),
    Allowed("50[1-9] - *", "not implemented, or no such version of HTTP, RFC 9110 §15.6"),
)
SILENT = (
    Allowed("- - end", "RFC 9112 §2.2 lets a server close instead of answering", "any"),
    Allowed("- - reset", "it closed with our bytes unread, which is an RST", "any"),
)
PATIENT = (
    Allowed("- - held", "no RFC bounds how long a server waits for a request", "any", up_to=120.0),
    Allowed("- - held", "its handshake_timeout is 10 s", "gateway", up_to=15.0),
)
TAKEN = Allowed("101 * *", "a lenient server upgrades it; it broke no other rule by that", "any")
WE_LEFT = Allowed("* * left", "we hung up first; whatever came before may have come")
BARE = (
    Allowed("101 - end", "RFC 6455 §7.1.7 lets an endpoint drop TCP without a Close", "any"),
    Allowed("101 - reset", "the same, with our bytes unread", "any"),
)


def closes(*codes: int, why: str) -> tuple[Allowed, ...]:
    """Return the allowance of a Close frame with one of these codes, and then the end."""
    return tuple(
        allowed
        for code in codes
        for allowed in (
            Allowed(f"101 {code} end", why),
            Allowed(f"101 {code} left", why),
            Allowed(f"101 {code} reset", why + "; it closed with our bytes unread"),
            Allowed(f"101 {code} held", "it waits for us to hang up first", "any", up_to=120.0),
        )
    )
