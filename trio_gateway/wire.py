"""JSON from strangers: the rules of single fields, and what to say when one is broken.

In: bytes or text of any kind, and values whose type is right already. Out: a value of the type that
was asked for, or a ``Problem`` that names the field. The rule: a limit is stated here once, for the
WebSocket commands, the query string and the HTTP API; ``decode`` never raises.
"""

import re
from typing import Any, TypeVar

import attrs
import msgspec
from attrs.validators import ge, instance_of

from trio_gateway.errors import GatewayError

Id = str | int | float
MAX_USER = 64
MAX_NAME = 128
MAX_KEY = 128
MAX_ID = 256
MAX_OFFSET = 2**53 - 1  # the largest integer that a JavaScript client reads exactly

EXPECTED = {
    "type": "a string",
    "id": "a string or a number",
    "room": f"a name of 1 to {MAX_NAME} characters",
    "topic": f"a name of 1 to {MAX_NAME} characters",
    "user": f"a name of 1 to {MAX_USER} characters",
    "to": f"a name of 1 to {MAX_USER} characters",
    "text": "a string",
    "title": "a string",
    "body": "a string",
    "data": "an object of JSON values with numbers in range",
    "key": f"a string of 1 to {MAX_KEY} characters",
    "since": 'a position, {"epoch": STRING, "offset": INTEGER}',
    "before": "an offset, a whole number from 0",
    "limit": "a whole number from 1",
    "cursor": "what the page before this one has as its cursor",
    "code": "a close code, a whole number",
    "reason": "a string",
    "offset": "an offset, a whole number from 0",
    "presence": "true or false",
}
"""What each field is, the end of a sentence that starts with "… must be"."""

_PATH = re.compile(r"`\$\.(\w+)")
_MISSING = re.compile(r"missing required field `(\w+)`")
_JOINERS = str.maketrans("", "", "\u200c\u200d")
_T = TypeVar("_T")
_count = attrs.validators.and_(instance_of(int), ge(1))


@attrs.frozen(kw_only=True)
class TextLimits:
    """How large the free texts may be, in bytes of UTF-8 (``data``: of JSON).

    Attributes:
        max_text_bytes: a chat message.
        max_title_bytes: the title of a notification.
        max_body_bytes: its body.
        max_data_bytes: its data.
    """

    max_text_bytes: int = attrs.field(default=64 * 1024, validator=_count)
    max_title_bytes: int = attrs.field(default=1024, validator=_count)
    max_body_bytes: int = attrs.field(default=16 * 1024, validator=_count)
    max_data_bytes: int = attrs.field(default=32 * 1024, validator=_count)


class InvalidField(GatewayError, ValueError):
    """A field that breaks a rule; nothing was published.

    Attributes:
        field: its name in JSON or in the query string.
        rule: what it must be, the end of a sentence that starts with the name.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.field = field
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.field} {self.rule}"


@attrs.frozen
class Problem:
    """Why a command was not obeyed: the ``error`` frame, as a value.

    Attributes:
        code: for programs, ``snake_case``, stable.
        message: one sentence for people.
        field: the field it is about, if it is about one.
        id: the command's own, where it could be read.
        retry: the milliseconds after which it may be sent again, where that would help.
    """

    code: str
    message: str
    field: str | None = None
    id: Id | None = None
    retry: int | None = None

    def encode(self) -> bytes:
        """Return the JSON of the ``error`` frame."""
        extra: dict[str, Any] = {} if self.field is None else {"field": self.field}
        if self.retry is not None:
            extra["retry"] = self.retry
        return reply("error", self.id, code=self.code, message=self.message, **extra)


def check_name(field: str, name: str, max_length: int = MAX_NAME) -> None:
    """Raise InvalidField unless ``name`` can be a name: 1 to ``max_length`` printable characters.

    Joiners (U+200C, U+200D) count as printable: names in Persian and composed emoji need them. A
    name of blanks alone is none, since nobody could see it.
    """
    if not 0 < len(name) <= max_length:
        raise InvalidField(field, f"must have 1 to {max_length} characters")
    visible = name if name.isascii() else name.translate(_JOINERS)
    if not visible.isprintable():
        raise InvalidField(field, "may have printable characters only")
    if not visible or visible.isspace():
        raise InvalidField(field, "may not be blank")


def check_text(field: str, text: str, max_bytes: int, *, may_be_empty: bool = False) -> None:
    """Raise InvalidField unless ``text`` has 1 (or 0) to ``max_bytes`` bytes of UTF-8."""
    if not text and not may_be_empty:
        raise InvalidField(field, "may not be empty")
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidField(field, "may not hold half of a surrogate pair") from None
    if size > max_bytes:
        raise InvalidField(field, f"may have at most {max_bytes} bytes of UTF-8")


def check_key(key: str | None) -> None:
    """Raise InvalidField unless ``key`` is absent or has 1 to 128 characters."""
    if key is not None:
        if not 0 < len(key) <= MAX_KEY:
            raise InvalidField("key", f"must have 1 to {MAX_KEY} characters")
        check_text("key", key, 4 * MAX_KEY)


def encode_data(data: Any, max_bytes: int) -> bytes:
    """Return the JSON of a notification's data; raises InvalidField when it can't be sent."""
    try:
        encoded = msgspec.json.encode(data)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidField("data", f"must be {EXPECTED['data']}") from None
    if len(encoded) > max_bytes:
        raise InvalidField("data", f"may have at most {max_bytes} bytes of JSON")
    return encoded


def decode(decoder: msgspec.json.Decoder[_T], source: str | bytes) -> _T | Problem:
    """Decode ``source``, or explain what is wrong with it; never raises."""
    try:
        return decoder.decode(source)
    except msgspec.ValidationError as error:
        return _explain(str(error))
    except (msgspec.DecodeError, UnicodeError):
        # Half surrogate pairs, NaN and trailing bytes end up here too; a position would help a
        # person, but msgspec's sentences are not ours to promise.
        return Problem("bad_json", "this is not JSON (RFC 8259), or not UTF-8")
    except RecursionError:
        return Problem("bad_json", "this JSON is nested too deeply")


def reply(kind: str, id: Id | None, **fields: Any) -> bytes:
    """Return the JSON of a frame to a client; ``id`` only where the command had one."""
    head: dict[str, Any] = {"type": kind} if id is None else {"type": kind, "id": id}
    return msgspec.json.encode(head | fields)


def _explain(text: str) -> Problem:
    """Turn msgspec's sentence into ours."""
    missing = _MISSING.search(text)
    path = _PATH.search(text)
    if missing is not None and path is None:
        field = missing[1]
        if field == "type":
            return Problem("unknown_type", "type is missing: it says what the command is", "type")
        return Problem("invalid_field", f"{field} is missing", field)
    if path is None:
        return Problem("not_an_object", "a command is a JSON object")
    field = path[1]
    if field == "type":
        return Problem("unknown_type", "type names no command of this endpoint", "type")
    expected = EXPECTED.get(field, "of another kind")
    return Problem("invalid_field", f"{field} must be {expected}", field)
