"""The roll of connections over processes that come and go, against a model."""

from collections.abc import Mapping
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.connection.connection import Connection
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.roll import read_cursor, read_page, turn_page
from trio_gateway.wire import InvalidField


@attrs.frozen
class Outbox:
    size: int = 0


@attrs.frozen
class Link:
    outbox: Outbox = Outbox()


@attrs.frozen
class Head:
    path: str = "/"


@attrs.frozen(eq=False)
class Held:
    """A connection and its upgrade, as far as the roll looks at them."""

    id: str
    number: int
    began: int
    head: Head = Head()
    unread: int = 0
    identity: None = None
    client_address: str = "192.0.2.1"
    route: str = "/"
    link: Link = Link()


@attrs.define
class Site:
    """Processes by name, each with its connections."""

    processes: dict[str, list[Held]] = attrs.Factory(dict)
    count: int = 0

    def begin(self) -> str:
        self.count += 1
        name = f"{self.count:08x}"
        self.processes[name] = []
        return name

    def open(self, name: str, path: str = "/") -> str:
        self.count += 1
        held = Held(f"{name}-{self.count}", self.count, self.count, Head(path))
        self.processes[name].append(held)
        return held.id

    def ids(self) -> list[str]:
        return [held.id for process in self.processes.values() for held in process]

    def ask(
        self, cursor: str | None, limit: int, wanted: Mapping[str, str] = {}, silent: str = ""
    ) -> dict[str, Any]:
        before = read_cursor(cursor or "")
        pages = [
            read_page(
                name,
                cast("dict[Connection, Upgrade]", {held: held for held in process}),
                lambda held: float(self.count - cast("Held", held).began),
                after=before.get(name, -1),
                limit=limit,
                wanted=wanted,
            )
            for name, process in self.processes.items()
            if name != silent
        ]
        return turn_page(pages, before, limit=limit, complete=not silent)


def listed(page: Mapping[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["connections"]]


@given(st.data())
def test_each_is_listed_once(data: st.DataObject) -> None:
    """Whatever comes and goes meanwhile: none twice, and all that stayed; no page is too long."""
    site = Site()
    for _ in range(data.draw(st.integers(1, 3))):
        site.begin()
    for _ in range(data.draw(st.integers(0, 12))):
        site.open(data.draw(st.sampled_from(sorted(site.processes))))
    stayed, seen = set(site.ids()), list[str]()
    limit = data.draw(st.integers(1, 5))
    cursor: str | None = None
    for _ in range(60):
        page = site.ask(cursor, limit)
        assert len(listed(page)) <= limit
        assert len(site.ids()) == page["open"]
        seen += listed(page)
        cursor = page["cursor"]
        if cursor is None:
            break
        for what in data.draw(st.lists(st.sampled_from(["open", "close", "begin", "die"]))):
            names = sorted(site.processes)
            name = data.draw(st.sampled_from(names))
            if what == "open" and len(seen) < 30:
                site.open(name)
            elif what == "close" and site.processes[name]:
                process = site.processes[name]
                process.pop(data.draw(st.integers(0, len(process) - 1)))
            elif what == "begin":
                site.begin()
            elif what == "die" and len(names) > 1:
                del site.processes[name]
        stayed &= set(site.ids())
    assert cursor is None
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)


def test_the_oldest_come_first() -> None:
    """Whichever process holds them."""
    site = Site()
    one, other = site.begin(), site.begin()
    expected = [site.open(name) for name in (one, other, other, one, other)]
    first = site.ask(None, 3)
    rest = site.ask(first["cursor"], 3)
    assert (expected, None) == (listed(first) + listed(rest), rest["cursor"])


def test_one_that_was_silent_for_a_page() -> None:
    """It goes on where it was, and nothing of it is listed again."""
    site = Site()
    one, other = site.begin(), site.begin()
    expected = [site.open(name) for name in (one, other) * 3]
    seen: list[str] = []
    cursor: str | None = None
    for silent in ("", one, one, ""):
        page = site.ask(cursor, 2, silent=silent)
        seen += listed(page)
        cursor = page["cursor"]
    assert (sorted(expected), None) == (sorted(seen), cursor)


def test_a_page_is_bounded_in_bytes_too() -> None:
    """Clients choose their paths; a page of long ones is shorter, and the next one goes on."""
    site = Site()
    name = site.begin()
    expected = [site.open(name, "/" + "x" * 100_000) for _ in range(25)]
    first = site.ask(None, 1_000)
    assert 5 < len(listed(first)) < 15
    seen, cursor = listed(first), first["cursor"]
    while cursor is not None:
        page = site.ask(cursor, 1_000)
        seen, cursor = seen + listed(page), page["cursor"]
    assert expected == seen


def test_filters_hold_in_every_process() -> None:
    """What does not match is neither listed nor a reason for another page."""
    site = Site()
    for name in (site.begin(), site.begin()):
        site.open(name)
    assert [] == listed(site.ask(None, 1, {"route": "/x"}))
    assert site.ask(None, 1, {"route": "/x"})["cursor"] is None
    assert 2 == len(listed(site.ask(None, 2, {"address": "192.0.2.1"})))


@pytest.mark.parametrize("text", ["x", "-1", "0000000g.1", "00000000.1_", "00000000.-1", "1.1\n"])
def test_a_cursor_of_ones_own(text: str) -> None:
    """It is refused by its name."""
    with pytest.raises(InvalidField, match="cursor"):
        read_cursor(text)
