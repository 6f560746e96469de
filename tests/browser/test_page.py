"""The page in a real browser: two people chat, breaks are survived, everybody can use it."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.npm import find_module
from tests.browser.proxy import proxy_to
from tests.browser.site import ROOT, Site, serve
from tests.cluster.server import redis_server

if TYPE_CHECKING:
    from tests.browser.conftest import Open

PHONE = {"width": 390, "height": 844}
PICTURE = {"width": 1200, "height": 680}
DESKTOP = {"width": 1280, "height": 800}
_SHOTS = os.environ.get("SCREENSHOTS")


def expect(found: Any) -> Any:
    """Return Playwright's assertions, which wait; imported late, since it may not be there."""
    from playwright.sync_api import expect as expecting

    return expecting(found)


def texts(page: Any) -> list[str]:
    """Return the texts of the messages that are shown, those being sent included."""
    shown: list[str] = page.locator(".log:visible .message:visible .text").all_inner_texts()
    return shown


def say(page: Any, text: str) -> None:
    """Write a message and send it by the keyboard."""
    page.fill("#text", text)
    page.press("#text", "Enter")


def connected(page: Any) -> None:
    """Wait until the page says that it is."""
    expect(page.locator("#status[data-state=ok]")).to_be_visible()


def message(page: Any, text: str) -> Any:
    """Return the message with a text, once it came back from the server."""
    return page.locator(".message[data-user]", has_text=text)


def test_two_users_chat(site: Site, room: str, open_page: "Open") -> None:
    """They see each other come, type and speak; one's own words are marked once they are kept."""
    ann, bob = (open_page(f"{site.url}/?user={user}&room={room}") for user in ("ann", "bob"))
    connected(ann)
    expect(ann.locator("#count")).to_have_text("2 here")
    ann.click("#who-toggle")
    expect(ann.locator("#members")).to_contain_text("ann (you)")
    expect(ann.locator("#members")).to_contain_text("bob")
    bob.type("#text", "hel")
    expect(ann.locator("#typing")).to_have_text("bob is typing…")
    say(bob, "hello ann")
    expect(message(ann, "hello ann")).to_be_visible()
    expect(ann.locator("#typing")).to_have_text("")
    expect(ann.locator("#announcer")).to_contain_text("bob: hello ann")
    say(ann, "hello bob")
    expect(message(bob, "hello bob")).to_be_visible()
    expect(ann.locator(".message.own.sent", has_text="hello bob")).to_have_count(1)
    assert texts(ann) == texts(bob) == ["hello ann", "hello bob"]


def test_rooms_by_keyboard(site: Site, room: str, open_page: "Open") -> None:
    """A room is joined, left and returned to without a mouse; others' words there are counted."""
    page = open_page(f"{site.url}/?user=ann&room={room}")
    connected(page)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_be_focused()
    page.focus("#room")
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    expect(page.locator("#room-name")).to_have_text("keys")
    site.say("over here", room=room)
    page.get_by_role("button", name=f"{room}, 1 unread").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#room-name")).to_have_text(room)
    expect(message(page, "over here")).to_be_visible()
    page.reload()
    expect(page.locator("#rooms button")).to_have_text([room, "keys"])
    page.get_by_role("button", name="keys").press("Enter")
    page.get_by_role("button", name="Leave").press("Enter")
    expect(page.locator("#rooms button")).to_have_text([room])


def test_a_user_who_was_away_gets_the_notification(
    site: Site, room: str, open_page: "Open"
) -> None:
    """It waits in the store, the bell counts it; read on one page, it is read on the other."""
    site.notify(room, "While you were away", "nobody lost anything")
    page, other = (open_page(f"{site.url}/?user={room}&room={room}") for _ in range(2))
    for each in (page, other):
        expect(each.locator("#notes .unread .title")).to_have_text("While you were away")
        expect(each.get_by_role("button", name="Notifications, 1 unread")).to_be_visible()
        expect(each).to_have_title(re.compile(r"^\(1\)"))
    site.notify(room, "And now")
    expect(page.locator("#notes .title")).to_have_text(["And now", "While you were away"])
    expect(page.locator("#announcer")).to_contain_text("Notification: And now")
    page.get_by_role("button", name="Mark all read").click()
    for each in (page, other):
        expect(each.locator("#notes .unread")).to_have_count(0)
        expect(each.locator("#unread")).to_be_hidden()


def test_what_was_missed_in_a_break_is_caught_up(site: Site, room: str, open_page: "Open") -> None:
    """And what was written meanwhile is sent, each once; the page says what happens."""
    with proxy_to(site.port) as proxy:
        page = open_page(f"{proxy.url}/?user={room}&room={room}")
        connected(page)
        site.say("before", room=room)
        expect(message(page, "before")).to_be_visible()
        proxy.refusing = True
        proxy.reset()
        expect(page.locator("#status-text")).to_contain_text(re.compile(r"Reconnecting in \d+ s"))
        say(page, "from the dark")
        expect(page.locator("#status-text")).to_contain_text("1 message waiting")
        expect(page.locator(".sending", has_text="from the dark")).to_be_visible()
        for number in range(3):
            site.say(f"missed {number}", room=room)
        site.notify(room, "missed too")
        proxy.refusing = False
        page.click("#retry")
        expect(page.locator("#status-text")).to_have_text("Caught up: 4 missed")
        expect(message(page, "from the dark")).to_be_visible()
        expect(page.locator("#notes .title")).to_have_text(["missed too"])
        wanted = ["before", "missed 0", "missed 1", "missed 2", "from the dark"]
        assert texts(page) == wanted


def test_a_server_that_is_killed_and_comes_back(lasting: Site, open_page: "Open") -> None:
    """Nothing is lost, nothing comes twice."""
    page = open_page(f"{lasting.url}/?user=ann")
    connected(page)
    say(page, "one")
    expect(page.locator(".message.sent", has_text="one")).to_be_visible()
    lasting.stop(signal.SIGKILL)
    expect(page.locator("#status[data-state=bad]")).to_be_visible()
    say(page, "two")
    lasting.start()
    lasting.say("three")
    with contextlib.suppress(Exception):
        page.click("#retry", timeout=500)  # it may be back by itself
    expect(message(page, "three")).to_be_visible()
    expect(page.locator(".message.sent", has_text="two")).to_be_visible()
    assert sorted(texts(page)) == ["one", "three", "two"]
    page.reload()
    expect(message(page, "three")).to_be_visible()
    assert sorted(texts(page)) == ["one", "three", "two"]


def test_a_memory_store_that_is_gone_is_told(mortal: Site, open_page: "Open") -> None:
    """The page shows what there is now, and says that something is missing."""
    page = open_page(f"{mortal.url}/?user=ann")
    mortal.say("of the first life")
    expect(message(page, "of the first life")).to_be_visible()
    mortal.stop(signal.SIGKILL)
    expect(page.locator("#status[data-state=bad]")).to_be_visible()
    mortal.start()
    mortal.say("of the second")
    with contextlib.suppress(Exception):
        page.click("#retry", timeout=500)
    expect(message(page, "of the second")).to_be_visible()
    expect(page.get_by_text("no longer kept").first).to_be_visible()
    assert texts(page) == ["of the second"]


def test_a_drain_is_called_a_restart(mortal: Site, open_page: "Open") -> None:
    """After 1012 the page says so and comes back, at once if its user wants."""
    page = open_page(f"{mortal.url}/?user=ann")
    connected(page)
    mortal.stop(signal.SIGTERM)
    expect(page.locator("#status-text")).to_contain_text("Server is restarting, back in")
    mortal.start()
    with contextlib.suppress(Exception):
        page.click("#retry", timeout=500)
    connected(page)


def test_after_a_final_close_what_is_written_is_kept(site: Site, open_page: "Open") -> None:
    """The page says why it is over and offers to begin anew."""

    def turn_away(socket: Any) -> None:
        socket.close(code=4403, reason="not here")

    page = open_page(site.url, sockets=turn_away)
    expect(page.locator("#status-text")).to_have_text("Disconnected: not here")
    say(page, "hello?")
    expect(page.locator(".message.failed")).to_contain_text("Not sent")
    page.get_by_role("button", name="Reload").click()
    expect(page.locator(".message")).to_have_count(0)


def test_markup_stays_text(site: Site, room: str, open_page: "Open") -> None:
    """In messages, names, rooms and notifications alike."""
    markup = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    site.say(markup, user="<i>eve</i>", room=room)
    site.notify(room, markup, markup)
    page = open_page(f"{site.url}/?user={room}&room={room}")
    expect(message(page, "onerror")).to_be_visible()
    assert texts(page) == [markup]
    expect(page.locator(".message .meta b")).to_have_text("<i>eve</i>")
    expect(page.locator("#notes .title")).to_have_text(markup)
    page.fill("#room", "<u>room</u>")
    page.press("#room", "Enter")
    expect(page.locator("#room-name")).to_have_text("<u>room</u>")
    assert page.locator("img[src=x], .message b b, i, u").count() == 0
    assert "owned" not in page.title()


def test_the_policy_holds(site: Site, open_page: "Open") -> None:
    """Markup that a script would write is refused by the browser."""
    page = open_page(f"{site.url}/?user=ann")
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
    ):
        script = f"() => {{ try {{ {attempt}; return false }} catch {{ return true }} }}"
        blocked = page.evaluate(script)
        assert blocked, attempt


def test_history_is_scrolled_back_into(site: Site, room: str, open_page: "Open") -> None:
    """A page at a time, and what was in sight stays in sight."""
    for number in range(120):
        site.say(f"message {number}", user=("bob", "cleo")[number % 2], room=room)
    page = open_page(f"{site.url}/?user=ann&room={room}", viewport=DESKTOP)
    expect(message(page, "message 119")).to_be_in_viewport()
    assert len(texts(page)) == 50
    page.locator(".log:visible").hover()
    page.mouse.wheel(0, -20_000)
    expect(page.locator(".message")).to_have_count(100)
    expect(message(page, "message 70")).to_be_in_viewport()
    expect(page.get_by_role("button", name="Newest messages")).to_be_visible()
    older = page.get_by_role("button", name="Show older messages")
    older.press("Enter")
    expect(page.locator(".message")).to_have_count(120)
    expect(older).to_be_hidden()
    assert texts(page) == [f"message {number}" for number in range(120)]
    page.get_by_role("button", name="Newest messages").click()
    expect(message(page, "message 119")).to_be_in_viewport()


def test_a_message_that_is_refused_can_be_tried_again_or_discarded(
    site: Site, room: str, open_page: "Open"
) -> None:
    """It says why."""
    page = open_page(f"{site.url}/?user=ann&room={room}")
    connected(page)
    say(page, "x" * 70_000)
    failed = page.locator(".message.failed")
    expect(failed).to_contain_text("Not sent: text may have at most 65536 bytes")
    failed.get_by_role("button", name="Try again").click()
    expect(failed).to_contain_text("Not sent")
    failed.get_by_role("button", name="Discard").click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#text")).to_be_focused()


def test_a_wrong_room_is_refused_beside_the_field(site: Site, open_page: "Open") -> None:
    """The other rooms stay."""
    page = open_page(f"{site.url}/?user=ann")
    connected(page)
    page.fill("#room", "a\u200eb")
    page.press("#room", "Enter")
    expect(page.locator("#room-error")).to_contain_text("printable")
    expect(page.locator("#rooms button")).to_have_text(["lobby"])
    expect(page.locator("#room-name")).to_have_text("lobby")


def test_without_a_network_it_says_so(site: Site, open_page: "Open") -> None:
    """And comes back at once when there is one again."""
    with proxy_to(site.port) as proxy:
        page = open_page(f"{proxy.url}/?user=ann")
        connected(page)
        proxy.refusing = True
        page.context.set_offline(True)
        proxy.reset()
        expect(page.locator("#status-text")).to_have_text("Offline, waiting for the network")
        proxy.refusing = False
        page.context.set_offline(False)
        connected(page)


@pytest.fixture
def guarded(tmp_path: Path) -> Generator[Site]:
    """A gateway that wants tokens."""
    key = tmp_path / "key"
    key.write_text(SECRET)
    yield from serve(Site(["--auth", "jwt", "--jwt-key", str(key)]))


SECRET = "a secret of forty-eight characters, all ASCII text"


def token(user: str, lasts: float = 600) -> str:
    """Return a token for a user."""
    import jwt

    return jwt.encode({"sub": user, "exp": int(time.time() + lasts)}, SECRET, "HS256")


def test_with_tokens_it_asks_for_one(guarded: Site, open_page: "Open") -> None:
    """A bad one is told; a good one opens, and lasts as long as the tab."""
    page = open_page(guarded.url)
    expect(page.get_by_role("heading", name="Access token")).to_be_visible()
    page.fill("#identity-value", "no.good.token")
    page.keyboard.press("Enter")
    expect(page.locator("#identity-error")).to_contain_text("did not accept this token")
    page.fill("#identity-value", token("ann"))
    page.keyboard.press("Enter")
    connected(page)
    expect(page.locator("#me-name")).to_have_text("ann")
    page.reload()
    connected(page)
    expect(page.locator("#identity")).to_be_hidden()
    assert "token" not in page.url


LOOKS = [
    pytest.param(PHONE, "light", id="phone-light"),
    pytest.param(PHONE, "dark", id="phone-dark", marks=pytest.mark.long),
    pytest.param(DESKTOP, "light", id="desktop-light", marks=pytest.mark.long),
    pytest.param(DESKTOP, "dark", id="desktop-dark"),
]


@pytest.fixture(scope="module")
def inhabited(site: Site) -> Site:
    """The gateway, with something to look at."""
    for user, text in (
        ("bob", "Morning! The new gateway takes the staging traffic."),
        ("ann", "Nice. Did the drain go through?"),
        ("bob", "Yes: 4,212 connections were told to come back, spread over 12 s."),
        ("bob", "Nobody lost a message."),
        ("cleo", "The graphs are flat, which is what we wanted to see."),
    ):
        site.say(text, user=user)
    site.notify("ann", "Deploy finished", "Version 2.4.1 is live in eu-west.")
    site.notify("ann", "Cleo mentioned you", "“Ask Ann about the retention window.”")
    return site


@pytest.mark.parametrize("size, scheme", LOOKS)
def test_how_it_looks(
    size: dict[str, int],
    scheme: str,
    inhabited: Site,
    open_page: "Open",
    request: pytest.FixtureRequest,
) -> None:
    """Nothing hangs over the edge, and axe-core finds nothing that keeps anybody out.

    With SCREENSHOTS=FOLDER it leaves a picture of each look there.
    """
    page = open_page(
        f"{inhabited.url}/?user=ann", viewport=size, color_scheme=scheme, reduced_motion="reduce"
    )
    connected(page)
    expect(page.locator(".message")).to_have_count(5)
    expect(page.locator("#unread")).to_have_text("2")
    for room in ("ops", "release"):
        page.evaluate(
            "name => { document.getElementById('room').value = name;"
            "document.getElementById('room-form').requestSubmit(); }",
            room,
        )
    page.evaluate("document.querySelector('[data-room=lobby]').click()")
    expect(page.locator("#room-name")).to_have_text("lobby")
    look(page, request.node.callspec.id, request)
    if size is PHONE:
        for toggle in ("#bell", "#rooms-toggle"):
            page.click(toggle)
            look(page, f"{request.node.callspec.id}-{toggle[1:]}", request)
            page.keyboard.press("Escape")
            expect(page.locator(toggle)).to_be_focused()
    else:
        page.click("#who-toggle")
        page.click("#me")
        expect(page.locator("#identity")).to_be_visible()
        look(page, f"{request.node.callspec.id}-name", request)


def look(page: Any, name: str, request: pytest.FixtureRequest) -> None:
    """Take a picture if asked for; check the edges; have axe-core check the rest."""
    if _SHOTS:
        page.screenshot(path=str(Path(_SHOTS) / f"{name}.png"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    axe = find_module("axe-core")
    if axe is None:
        pytest.skip("npm `axe-core` is not installed: npm install --no-save axe-core@4")
    page.evaluate((axe / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    told = [
        f"{each['id']}: {each['help']}: {[node['html'][:120] for node in each['nodes']]}"
        for each in found
    ]
    assert told == [], name


@pytest.mark.skipif(_SHOTS is None, reason="the README's picture is made with SCREENSHOTS=FOLDER")
def test_the_picture_of_the_readme(inhabited: Site, open_page: "Open") -> None:
    """It is made anew, and small."""
    page = open_page(f"{inhabited.url}/?user=ann", viewport=PICTURE, reduced_motion="reduce")
    expect(page.locator("#unread")).to_have_text("2")
    expect(page.locator(".message")).to_have_count(5)
    for room in ("operations", "release", "lobby"):
        page.fill("#room", room)
        page.press("#room", "Enter")
    inhabited.say("All green.", room="operations")
    others = [open_page(f"{inhabited.url}/?user={user}") for user in ("bob", "cleo")]
    expect(page.locator("#count")).to_have_text("3 here")
    say(page, "Then let us take the rest of them tomorrow morning.")
    expect(page.locator(".message.sent")).to_be_visible()
    others[0].type("#text", "Good")
    expect(page.locator("#typing")).to_have_text("bob is typing…")
    file = ROOT / "docs" / "screenshot.png"
    page.screenshot(path=str(file))
    assert file.stat().st_size < 200_000


def test_an_emptied_store_is_shown(open_page: "Open") -> None:
    """What is lost goes from the page, what comes is there, and the connections have stayed."""
    pytest.importorskip("coredis", reason="the extra redis is not installed")
    with redis_server() as server, contextlib.contextmanager(serve)(Site(store=server.url)) as site:
        page = open_page(f"{site.url}/?user=ann&room=tea")
        connected(page)
        site.say("the old", room="tea")
        site.notify("ann", "Old news")
        expect(message(page, "the old")).to_be_visible()
        expect(page.locator("#unread")).to_have_text("1")
        server.ask("FLUSHALL")
        for text in ("the new", "the newer"):
            site.say(text, room="tea")
        site.notify("ann", "New news")
        expect(message(page, "the newer")).to_be_visible()
        assert ["the new", "the newer"] == texts(page)
        expect(page.locator(".log:visible .note")).to_contain_text("no longer kept")
        page.click("#bell")
        expect(page.locator("#notes .title")).to_have_text(["New news"])
        expect(page.locator("#unread")).to_have_text("1")
        say(page, "still here")
        expect(message(page, "still here")).to_be_visible()
        assert 2 == site.get("/api/connections")["open"]
        assert {} == site.get("/api/statistics")["gateway"]["closes"]
