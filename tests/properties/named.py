"""Programs with a name: what breaks servers, and what has broken this one.

Each is one client and its handler; the healthy client beside them is the world's.
"""

from tests.properties.programs import (
    Client,
    Eof,
    HandlerScript,
    Leave,
    Program,
    Reset,
    Send,
    Step,
    Wait,
)


def one(
    *steps: Step | str,
    deeds: str = "",
    careful: bool = False,
    reads: bool = True,
    http: bool = True,
    compress: bool = False,
) -> Program:
    """A program of one client and its handler; a text is a segment of one piece."""
    client = Client(
        tuple(Send((step,)) if isinstance(step, str) else step for step in steps), reads
    )
    handler = HandlerScript(tuple(deeds.split()), careful)
    return Program(((client, handler),), http=http, compress=compress)


NAMED: dict[str, Program] = {
    "a second upgrade in the segment of the first": one(
        Send(("upgrade", "second upgrade")), deeds="accept echo"
    ),
    "a second upgrade behind the 101": one("upgrade", "second upgrade", deeds="accept echo"),
    "a request behind the 101": one("upgrade", "text", "GET", deeds="accept echo"),
    "a second upgrade behind an undecided one": one("upgrade", "second upgrade", deeds="wait"),
    "a second upgrade behind a rejected one": one("upgrade", "second upgrade", deeds="reject"),
    "early frames in the segment of the upgrade": one(
        Send(("upgrade", "text", "binary"), (3, 200)), "long text", deeds="wait accept read echo"
    ),
    "more early bytes than are kept": one(
        Send(("upgrade", *["long text"] * 3)), "text", deeds="wait accept echo"
    ),
    "a Close among the early frames": one(
        Send(("upgrade", "text", "close")), deeds="wait accept read read", careful=True
    ),
    "accept twice": one("upgrade", "text", deeds="accept accept echo"),
    "accept twice, and go on": one("upgrade", "text", deeds="accept accept echo", careful=True),
    "reject after accept": one("upgrade", deeds="accept reject"),
    "accept after reject": one("upgrade", deeds="reject accept"),
    "both at once": one("upgrade", "text", deeds="race echo"),
    "neither": one("upgrade"),
    "fail before the decision": one("upgrade", deeds="fail-in-a-group"),
    "fail after it": one("upgrade", deeds="accept crash-its-nursery"),
    "a Cancelled raised out of its scope": one("upgrade", deeds="accept stray-cancelled"),
    "a handler that takes no notice of its deadline": one("upgrade", deeds="hang swallow accept"),
    "a reset before the decision, and a handler that hangs": one(
        "upgrade", Wait(0.5), Reset(), deeds="hang"
    ),
    "a reset in the upgrade window": one("upgrade", Reset(), deeds="wait accept"),
    "an end of file before the decision": one("upgrade", Eof(), deeds="wait accept send"),
    "an end of file behind half a request": one("half a request", Eof()),
    "leaving with much unsent": one("upgrade", Wait(0.5), Leave(), deeds="accept send-much"),
    "compressed messages both ways": one(
        Send(("upgrade with deflate", "compressed text")),
        Send(("text", "compressed bomb")),
        deeds="accept echo",
        compress=True,
    ),
    "nobody reads": one("upgrade", deeds="accept send-much send-much hang", reads=False),
    "nothing is sent": one(),
    "keep-alive, then an upgrade": one(Send(("GET", "POST", "upgrade")), deeds="accept send"),
    "a last response": one("GET, then close"),
    "a response that comes at once": one("GET of nothing", http=False),
    "a header that cannot be sent": one("GET answered with a header that cannot be sent"),
    "an answer that is none": one("GET answered with no answer"),
    "a body that never comes": one("POST with a body that lacks"),
}
