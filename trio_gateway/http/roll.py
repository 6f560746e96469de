"""The roll of connections, page by page over several processes.

In: one process's connections, or the pages of all. Out: a page. The rules: a cursor says of each
process how far it was read, so each connection is listed once, whichever come and go; a process
gives no more than a page of bounded size, however many connections it holds.
"""

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import msgspec

from trio_gateway.connection.connection import Connection
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.wire import InvalidField

MAX_PAGE = 1_000
FILTERS = ("user", "route", "address")
_MAX_PAGE_BYTES = 2**20
_CURSOR = re.compile(r"([0-9a-f]{8}\.[0-9]{1,16})(_[0-9a-f]{8}\.[0-9]{1,16}){0,999}", re.ASCII)

Cursor = Mapping[str, int]
"""The number of the last connection that was listed, by the name of its process."""


def read_cursor(text: str) -> dict[str, int]:
    """Return what ``turn_page`` has written, or nothing for no text; raises InvalidField."""
    if text and _CURSOR.fullmatch(text) is None:
        raise InvalidField("cursor", "must be the cursor of the page before")
    pairs = (part.split(".") for part in text.split("_") if part)
    return {name: int(number) for name, number in pairs}


def _write_cursor(cursor: Cursor) -> str:
    return "_".join(f"{name}.{number}" for name, number in cursor.items())


def read_page(
    name: str,
    connections: Mapping[Connection, Upgrade],
    age_of: Callable[[Upgrade], float],
    *,
    after: int,
    limit: int,
    wanted: Mapping[str, str],
) -> dict[str, Any]:
    """Return one process's page, for ``turn_page``.

    Arguments:
        name: of the process, as no other has it.
        connections: each with its upgrade, in the order of opening; all processes of a machine
            share the clock of ``Upgrade.began``.
        age_of: returns seconds.
        after: the number of the last one listed, -1 for none.
        limit: the most that are listed.
        wanted: what must be true of them, by ``FILTERS``.
    """
    marks: list[tuple[int, float]] = []
    entries: list[dict[str, Any]] = []
    size, more = 0, False
    for connection, upgrade in connections.items():
        if connection.number <= after or not _matches(upgrade, wanted):
            continue
        if len(entries) == limit or size > _MAX_PAGE_BYTES:
            more = True
            break
        entry = _entry(connection, upgrade, age_of(upgrade))
        size += len(msgspec.json.encode(entry))
        marks.append((connection.number, upgrade.began))
        entries.append(entry)
    return {
        "name": name,
        "marks": marks,
        "entries": entries,
        "more": more,
        "open": len(connections),
    }


def turn_page(
    pages: Sequence[Mapping[str, Any]], before: Cursor, *, limit: int, complete: bool
) -> dict[str, Any]:
    """Return the pages of all processes as one.

    Arguments:
        pages: of ``read_page``.
        before: the cursor that they were asked with.
        limit: the most that are listed.
        complete: whether no process is missing; the next page is for those that are.
    """
    runs = (
        [
            (began, page["name"], number, entry)
            for (number, began), entry in zip(page["marks"], page["entries"], strict=True)
        ]
        for page in pages
    )
    # The oldest first; within a process the order is its own, whatever the clock's grain.
    merged = heapq.merge(*runs, key=itemgetter(0))
    listed = list(islice(merged, limit))
    found = sum(len(page["entries"]) for page in pages)
    more = found > len(listed) or any(page["more"] for page in pages) or not complete
    # One that is silent now goes on where it was.
    cursor = {**before, **{name: number for _, name, number, _ in listed}}
    return {
        "connections": [entry for *_, entry in listed],
        "open": sum(page["open"] for page in pages),
        "cursor": _write_cursor(cursor) if more else None,
    }


def _matches(upgrade: Upgrade, wanted: Mapping[str, str]) -> bool:
    for name, value in wanted.items():
        if name == "user":
            if upgrade.identity is None or upgrade.identity.user != value:
                return False
        elif value != (upgrade.route if name == "route" else upgrade.client_address):
            return False
    return True


def _entry(connection: Connection, upgrade: Upgrade, age: float) -> dict[str, Any]:
    return {
        "id": connection.id,
        "user": None if upgrade.identity is None else upgrade.identity.user,
        "address": upgrade.client_address,
        "route": upgrade.route,
        "path": upgrade.head.path,  # the query may hold a token
        "age": round(age, 3),
        "unread": connection.unread,
        "outbox_bytes": upgrade.link.outbox.size,
    }
