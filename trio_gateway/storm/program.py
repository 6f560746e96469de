"""A storm as data: the steps of its clients, and the same as JSON.

In: values, or the text of a replay file. Out: the same storm, byte for byte. The rules: a program
knows no address (``{authority}``, ``{path}``, ``{other}`` and ``{since}`` in what is sent are
filled in when it runs), and a file of an older format number is read for ever or refused by number.
"""

import json
from typing import Any, Literal, get_args

import attrs
from attrs.validators import and_, ge, in_, instance_of, optional

FORMAT = 1
MAX_SCRIPTS = 1_000_000
_MAX_SECONDS = 3600.0
_MAX_BYTES = 64 * 1024 * 1024

Awaited = Literal["answer", "upgrade", "message", "pong", "close", "end"]


def _count(_instance: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    if not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise ValueError(f"{attribute.name} is a whole number from 1, not {value!r}")


def _seconds(_instance: object, attribute: "attrs.Attribute[float]", value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        raise ValueError(f"{attribute.name} is a number of seconds from 0, not {value!r}")


class BadProgram(ValueError):
    """A text that is no storm; ``str()`` says where."""


def _few_bytes(instance: "Send", _attribute: object, value: int) -> None:
    if not value >= 1 or value * len(instance.data) > _MAX_BYTES:
        raise ValueError(f"one step sends at most {_MAX_BYTES} bytes")


@attrs.frozen
class Connect:
    """Open a new socket; one that is open is left behind with a FIN.

    Attributes:
        tls: speak TLS where the target does; False for bare TCP to whatever is there.
        window: bytes of the receive buffer; None for the system's.
    """

    tls: bool = True
    window: int | None = attrs.field(default=None, validator=optional(_count))


@attrs.frozen
class Send:
    """Send bytes.

    Attributes:
        data: the bytes, with the words in braces filled in.
        times: how often they are repeated.
        cuts: where segments end, in bytes of ``data``; a segment leaves by itself.
        gap: seconds between segments (and repetitions, where it is not 0).
        note: what the bytes are, for people.
    """

    data: bytes = attrs.field(validator=instance_of(bytes))
    times: int = attrs.field(default=1, validator=[instance_of(int), _few_bytes])
    cuts: tuple[int, ...] = ()
    gap: float = attrs.field(default=0.0, validator=_seconds)
    note: str = attrs.field(default="", validator=instance_of(str))


@attrs.frozen
class Expect:
    """Read until something has come; that it has not is for the oracle to judge.

    Attributes:
        what: a whole HTTP ``answer``; an ``upgrade`` (without one the rest up to the next
            ``Connect`` is skipped); a ``message``; a ``pong``; a ``close`` frame; the ``end``.
        within: seconds.
    """

    what: Awaited = attrs.field(validator=in_(get_args(Awaited)))
    within: float = attrs.field(default=12.0, validator=_seconds)


@attrs.frozen
class Wait:
    """Let seconds pass, reading what comes unless reading has stopped."""

    seconds: float = attrs.field(validator=_seconds)


@attrs.frozen
class At:
    """As ``Wait``, until this second of the storm: how a herd moves at once."""

    second: float = attrs.field(validator=_seconds)


@attrs.frozen
class StopReading:
    """Read no more on this socket until it is told to ``Sip``."""


@attrs.frozen
class Sip:
    """Read slowly: so many bytes at a time, a time every so many seconds, for so many seconds."""

    size: int = attrs.field(validator=_count)
    every: float = attrs.field(validator=_seconds)
    seconds: float = attrs.field(validator=_seconds)


@attrs.frozen
class HalfClose:
    """Send a FIN and go on reading."""


@attrs.frozen
class Close:
    """Close the socket as a program does that has had enough: a FIN, nothing more is read."""


@attrs.frozen
class Reset:
    """Close the socket with an RST."""


@attrs.frozen
class Hoard:
    """Open many sockets, say nothing on them for some seconds, then close them all."""

    count: int = attrs.field(validator=_count)
    seconds: float = attrs.field(validator=_seconds)


@attrs.frozen
class Restart:
    """Have the server restarted, where a command for that is known."""


Step = (
    Connect
    | Send
    | Expect
    | Wait
    | At
    | StopReading
    | Sip
    | HalfClose
    | Close
    | Reset
    | Hoard
    | Restart
)
_KINDS: dict[str, type[Step]] = {
    "connect": Connect,
    "send": Send,
    "expect": Expect,
    "wait": Wait,
    "at": At,
    "stop-reading": StopReading,
    "sip": Sip,
    "half-close": HalfClose,
    "close": Close,
    "reset": Reset,
    "hoard": Hoard,
    "restart": Restart,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@attrs.frozen
class Script:
    """What one client does.

    Attributes:
        client: its number, which stays the same when others are taken away.
        fault: the name of the fault that it stands for.
        start: seconds after the storm's start.
        steps: one after the other.
        polite: whether it answers pings and Close frames while it reads.
    """

    client: int = attrs.field(validator=and_(instance_of(int), ge(0)))
    fault: str = attrs.field(validator=instance_of(str))
    start: float = attrs.field(validator=_seconds)
    steps: tuple[Step, ...]
    polite: bool = attrs.field(default=True, validator=instance_of(bool))


@attrs.frozen
class Program:
    """A storm.

    Attributes:
        seed: what it was made from.
        duration: seconds in which its clients start.
        rate: connects a second, at most.
        scripts: its clients.
    """

    seed: int
    duration: float = attrs.field(validator=_seconds)
    rate: float = attrs.field(validator=and_(instance_of((int, float)), ge(0.1)))
    scripts: tuple[Script, ...]

    @property
    def steps(self) -> int:
        """How many steps all clients take."""
        return sum(len(script.steps) for script in self.scripts)

    @property
    def sent_bytes(self) -> int:
        """How many bytes all clients send."""
        return sum(
            len(step.data) * step.times
            for script in self.scripts
            for step in script.steps
            if isinstance(step, Send)
        )

    def dumps(self) -> str:
        """Return JSON with a line a step; bytes are text of the characters U+0000 to U+00FF."""
        head = {"format": FORMAT, "seed": self.seed, "duration": self.duration, "rate": self.rate}
        lines = [json.dumps(head)[:-1] + ', "clients": [']
        for number, script in enumerate(self.scripts):
            about = {
                "client": script.client,
                "fault": script.fault,
                "start": script.start,
                "polite": script.polite,
            }
            lines.append(json.dumps(about)[:-1] + ', "steps": [')
            steps = [json.dumps(_plain(step)) for step in script.steps]
            lines.append(",\n".join(f"  {step}" for step in steps))
            lines.append("]}" + ("," if number + 1 < len(self.scripts) else ""))
        lines.append("]}")
        return "\n".join(line for line in lines if line) + "\n"


def loads(text: str) -> Program:
    """Read what ``Program.dumps()`` wrote.

    Raises:
        BadProgram: it is none, or of a format that is not known.
    """
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or "format" not in value:
            raise BadProgram("this is no storm: a JSON object with a format number")
        if value["format"] != FORMAT:
            raise BadProgram(f"format {value['format']!r} is not known; this reads {FORMAT}")
        clients = value["clients"]
        if len(clients) > MAX_SCRIPTS:
            raise BadProgram(f"at most {MAX_SCRIPTS} clients")
        return Program(
            seed=value["seed"],
            duration=value["duration"],
            rate=value["rate"],
            scripts=tuple(
                Script(
                    client=each["client"],
                    fault=each["fault"],
                    start=each["start"],
                    polite=each["polite"],
                    steps=tuple(_step(step) for step in each["steps"]),
                )
                for each in clients
            ),
        )
    except BadProgram:
        raise
    except KeyError as error:
        raise BadProgram(f"{error} is missing") from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadProgram(str(error.args[0]) if error.args else "this is no storm") from None


def _plain(step: Step) -> dict[str, Any]:
    """Return a step with the fields that are not as they are by themselves."""
    plain: dict[str, Any] = {"do": _NAMES[type(step)]}
    for field in attrs.fields(type(step)):
        value = getattr(step, field.name)
        if value != field.default:
            plain[field.name] = value.decode("latin-1") if isinstance(value, bytes) else value
    return plain


def _step(plain: dict[str, Any]) -> Step:
    fields = dict(plain)
    name = fields.pop("do")
    if name not in _KINDS:
        raise BadProgram(f"{name!r} is no step")
    if name == "send":
        fields["data"] = fields["data"].encode("latin-1")
    if "cuts" in fields:
        fields["cuts"] = tuple(int(cut) for cut in fields["cuts"])
    return _KINDS[name](**fields)
