"""The feed: one sequence, whatever the server keeps and however it pages."""

import attrs
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from trio_gateway.client.errors import CommandRefused
from trio_gateway.client.feed import Feed, Gap, Page
from trio_gateway.hub.positions import Position


@attrs.frozen
class Item:
    position: Position


def item(offset: int) -> Item:
    return Item(Position("e", offset))


@attrs.define
class Server:
    """Keeps the newest, and puts no more than ``max_page`` into one answer."""

    latest: int
    kept: int
    max_page: int
    reads: int = 0

    async def read(self, before: int, limit: int) -> Page[Item]:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        oldest = max(1, self.latest - self.kept + 1)
        end = min(before, self.latest + 1)
        start = max(oldest, end - min(limit, self.max_page))
        return Page([item(offset) for offset in range(start, end)], start > oldest and end > oldest)


def collect(server: Server, since: int, max_queued: int, live: int) -> list[Item | Gap]:
    """Take all from ``since`` on, while ``live`` more are published."""
    taken: list[Item | Gap] = []

    async def main() -> None:
        feed: Feed[Item] = Feed(max_queued, Position("e", since))
        end = server.latest + live
        async with trio.open_nursery() as nursery:
            feed.begin(Position("e", server.latest), None)
            nursery.start_soon(feed.fill, server.read)
            while not taken or taken[-1].position.offset < end:
                if server.latest < end:
                    server.latest += 1
                    feed.offer(item(server.latest))
                taken.append(await feed.receive())
            nursery.cancel_scope.cancel()

    trio.run(main)
    return taken


@given(
    st.integers(0, 3000),
    st.integers(0, 3000),
    st.tuples(st.integers(1, 3000), st.integers(1, 300)),
    st.integers(1, 20),
    st.integers(1, 50),
)
@example(0, 100_000, (10, 256), 8, 1)
@example(0, 2000, (1000, 1), 1, 50)
def test_each_offset_comes_once_or_is_told(
    since: int, missed: int, bounds: tuple[int, int], max_queued: int, live: int
) -> None:
    """In order, each either as itself or inside a gap; only what is not kept is in one."""
    kept, max_page = bounds
    server = Server(since + missed, kept, max_page)
    reached = since
    for got in collect(server, since, max_queued, live):
        if isinstance(got, Gap):
            assert (reached, got.position.offset - reached) == (got.after.offset, got.lost)
            assert got.position.offset <= server.latest - kept
            reached = got.position.offset
        else:
            reached += 1
            assert reached == got.position.offset
    assert since + missed + live == reached


def test_a_hole_of_a_million_is_found_fast() -> None:
    """The begin of what is kept is searched for, not walked to."""
    server = Server(1_000_000, 100, 256)
    gap, *items = collect(server, 0, 8, 1)
    assert isinstance(gap, Gap)
    assert 999_901 <= gap.position.offset + 1
    assert 1_000_001 - gap.position.offset == len(items)
    assert server.reads < 60


async def test_what_may_not_be_read_is_a_gap(nursery: trio.Nursery) -> None:
    """A reader who may join and not read is told what it missed."""

    async def refuse(before: int, limit: int) -> Page[Item]:
        await trio.lowlevel.checkpoint()
        raise CommandRefused("forbidden", "no")

    feed: Feed[Item] = Feed(8, Position("e", 5))
    feed.begin(Position("e", 9), None)
    nursery.start_soon(feed.fill, refuse)
    assert Gap(Position("e", 5), Position("e", 9), 4) == await feed.receive()
    await trio.testing.wait_all_tasks_blocked()  # until then the next would be read, too
    feed.offer(item(10))
    assert item(10) == await feed.receive()
    nursery.cancel_scope.cancel()
