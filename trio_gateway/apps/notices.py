"""Notifications as clients see them: pure functions, for the live frame and for every list.

In: publications of a user's stream or a shared topic, and what was read of it. Out: JSON and
frames. The rule: a notification is spliced from the bytes that were stored, whoever it is for.
"""

import msgspec

from trio_gateway.apps.schemas import Read
from trio_gateway.connection.frames import text_frame
from trio_gateway.hub.broker import Page, Publication
from trio_gateway.wire import MAX_USER, InvalidField, check_name, reply


def address(to: str | None, topic: str | None) -> str:
    """Return the hub's topic of a user or of a shared one; raises InvalidField unless for one."""
    if to is not None and topic is None:
        check_name("to", to, MAX_USER)
        return f"user:{to}"
    if topic is not None and to is None:
        check_name("topic", topic)
        return f"topic:{topic}"
    raise InvalidField("to", "or topic must be given, and not both")


def to_json(publication: Publication, cursor: int = 0) -> bytes:
    """Return the JSON of a notification for a reader who has read up to ``cursor``."""
    kind, _, name = publication.topic.partition(":")
    offset = publication.position.offset
    # Offsets of different streams mean nothing to each other, so a shared one says whose it is.
    whose = b'"topic":%b,' % msgspec.json.encode(name) if kind == "topic" else b""
    read = b"true" if offset <= cursor else b"false"
    body = publication.payload[1:-1]
    return b'{"type":"notification",%b"offset":%d,%b,"read":%b}' % (whose, offset, body, read)


def encode(publication: Publication) -> bytes:
    """Return the frame of a new notification, which nobody has read."""
    return text_frame(to_json(publication))


def count_unread(kept: Page, cursor: int) -> int:
    """Return how many are kept that have not been read: what was trimmed can't be any more."""
    return max(0, kept.position.offset - max(cursor, kept.first - 1))


def unread(kept: Page, cursor: int, command: Read | None = None) -> bytes:
    """Return the JSON of ``unread``: how many, and up to which offset all are read.

    The offset never goes back: of two frames the one with the greater is the newer.
    """
    id = None if command is None else command.id
    return reply("unread", id, count=count_unread(kept, cursor), offset=cursor)
