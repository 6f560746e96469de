"""The client's inbox: notifications of the past and of now, and how many are unread."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Unpack

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.client.site import SETTINGS, URL, Site, open_site, run
from tests.client.test_chat import FAULTS
from trio_gateway.apps.chat import ChatApp
from trio_gateway.client import (
    ClientOptions,
    CommandRefused,
    Gap,
    Inbox,
    NotAGateway,
    Notification,
    Position,
    connect_notifications,
)
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.testing import open_gateway


def listen(site: Site, **options: Unpack[ClientOptions]) -> AbstractAsyncContextManager[Inbox]:
    defaults = ClientOptions(connect=site.connect, settings=SETTINGS)
    return connect_notifications(URL, user="ann", **(defaults | options))


async def take(inbox: Inbox, count: int) -> list[Notification]:
    """Return the next notifications; there is no gap among them."""
    taken: list[Notification] = []
    while len(taken) < count:
        item = await inbox.__anext__()
        assert isinstance(item, Notification), item
        taken.append(item)
    return taken


async def test_it_receives_and_marks_as_read(autojump_clock: trio.testing.MockClock) -> None:
    """What is unread is counted, over several connections of the user."""
    async with open_site() as site, listen(site) as inbox, listen(site) as other:
        await inbox.wait_live()
        await other.wait_live()
        for title in ("a", "b", "c"):
            await site.notifications.notify(to="ann", title=title, body="B", data={"x": 1})
        first, second, _ = await take(inbox, 3)
        assert ("a", "B", {"x": 1}, False) == (first.title, first.body, first.data, first.read)
        assert 3 == inbox.unread
        assert 1 == await inbox.mark_read(second.position.offset)
        await trio.testing.wait_all_tasks_blocked()
        assert (1, 1) == (inbox.unread, other.unread)


async def test_it_goes_on_from_a_position(autojump_clock: trio.testing.MockClock) -> None:
    """What came while nobody was connected comes; with no ``since`` it is only counted."""
    async with open_site() as site:
        async with listen(site) as inbox:
            await inbox.wait_live()
            await site.notifications.notify(to="ann", title="0")
            await take(inbox, 1)
            kept = inbox.position
        for number in range(1, 40):
            await site.notifications.notify(to="ann", title=str(number))
        async with listen(site, since=kept) as inbox:
            titles = [n.title for n in await take(inbox, 39)]
            assert [str(number) for number in range(1, 40)] == titles
        async with listen(site) as inbox:
            await inbox.wait_live()
            assert 40 == inbox.unread
            await site.notifications.notify(to="ann", title="now")
            assert ["now"] == [n.title for n in await take(inbox, 1)]


async def test_another_history_is_told_and_read(autojump_clock: trio.testing.MockClock) -> None:
    """After a new epoch: a gap, then all that the new one keeps."""
    async with open_site() as site:
        for title in ("a", "b"):
            await site.notifications.notify(to="ann", title=title)
        async with listen(site, since=Position("gone", 7)) as inbox:
            gap = await inbox.__anext__()
            assert isinstance(gap, Gap)
            assert (Position("gone", 7), 0, None) == (gap.after, gap.position.offset, gap.lost)
            assert ["a", "b"] == [n.title for n in await take(inbox, 2)]


async def test_it_stays_through_gaps_of_the_server(autojump_clock: trio.testing.MockClock) -> None:
    """What was left out comes; a lost history is a gap, and the count begins anew with it."""
    async with open_site(lossy=True) as site, listen(site) as inbox:
        await inbox.wait_live()
        await site.notifications.notify(to="ann", title="1")
        site.lossy.deaf = True
        for title in ("2", "3"):
            await site.notifications.notify(to="ann", title=title)
        site.lossy.deaf = False
        await site.notifications.notify(to="ann", title="4")
        assert ["1", "2", "3", "4"] == [n.title for n in await take(inbox, 4)]
        assert 0 == await inbox.mark_read(4)
        site.lossy.lose()
        for title in ("new", "newer"):
            await site.notifications.notify(to="ann", title=title)
        gap = await inbox.__anext__()
        assert isinstance(gap, Gap)
        assert (Position("e1", 4), Position("e2", 0), None) == (gap.after, gap.position, gap.lost)
        assert ["new", "newer"] == [n.title for n in await take(inbox, 2)]
        assert 2 == inbox.unread
        assert 1 == await inbox.mark_read(1)
        assert 1 == len(site.lines)


@given(
    st.lists(st.tuples(st.floats(0, 40), st.sampled_from([*FAULTS, Site.leave_out])), max_size=6)
)
def test_breaks_lose_nothing(breaks: list[tuple[float, Any]]) -> None:
    """Any schedule of breaks: each notification once, in order, and read marks arrive."""

    async def scenario() -> None:
        async with open_site(lossy=True) as site, trio.open_nursery() as nursery:

            async def disturb() -> None:
                for pause, fault in breaks:
                    await trio.sleep(pause)
                    await fault(site)

            async def notify() -> None:
                for number in range(30):
                    await site.notifications.notify(to="ann", title=str(number))
                    await trio.sleep(2)

            async with listen(site) as inbox:
                await inbox.wait_live()
                nursery.start_soon(notify)
                nursery.start_soon(disturb)
                for number in range(30):
                    (notification,) = await take(inbox, 1)
                    assert str(number) == notification.title
                    await inbox.mark_read(notification.position.offset)
                assert 0 == inbox.unread
            nursery.cancel_scope.cancel()

    run(scenario)


async def test_a_mark_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    """An offset that is none."""
    async with open_site() as site, listen(site) as inbox:
        with pytest.raises(CommandRefused):
            await inbox.mark_read(-1)


async def test_the_path_may_be_told_or_not(autojump_clock: trio.testing.MockClock) -> None:
    """The URL of the gateway and that of its notifications mean the same."""
    async with open_site() as site:
        url = "ws://memory/notifications/ws"
        async with connect_notifications(url, connect=site.connect) as inbox:
            await inbox.wait_live()
            assert inbox.user is not None
            assert inbox.user.startswith("guest-")


async def test_a_chat_is_no_inbox(autojump_clock: trio.testing.MockClock) -> None:
    """A welcome without a position is another endpoint's."""
    async with open_site() as site:
        hub = Hub(MemoryBroker())
        chat = ChatApp(hub)
        async with open_gateway(chat.handle, hub=hub) as server:
            with pytest.raises(NotAGateway):
                async with listen(site, connect=server.connect) as inbox:
                    await inbox.__anext__()
