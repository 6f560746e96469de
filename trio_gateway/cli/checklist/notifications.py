"""Every message type of the notifications."""

from typing import Any

from trio_gateway.cli.checklist.probe import Check, Site, require, shorten


async def _notify(site: Site, **notification: Any) -> dict[str, Any]:
    """Send a notification through the HTTP API; return its position."""
    answer = await site.request("POST", "/api/notifications", body=notification)
    position = answer.json()
    require(
        answer.status == 201 and isinstance(position, dict) and "offset" in position,
        f"POST /api/notifications: {answer.describe()}",
    )
    return dict(position)


async def _commands(site: Site) -> str:
    topic = site.name("topic")
    async with site.listen("cat") as talk:
        await talk.expect("welcome", user=site.name("cat"))
        await talk.send("list", limit=5, id=1)
        await talk.expect("list", id=1, notifications=[], more=False)
        await talk.send("read", offset=0, id=2)
        await talk.expect("unread", count=0)
        await talk.send("subscribe", topic=topic, id=3)
        await talk.expect("subscribed", topic=topic, id=3)
        await talk.send("unsubscribe", topic=topic, id=4)
        await talk.expect("unsubscribed", topic=topic, id=4)
    return "list, read, subscribe, unsubscribe"


async def _errors(site: Site) -> str:
    async with site.listen("cat") as talk:
        await talk.expect("welcome")
        await talk.say("no JSON")
        await talk.expect("error", code="bad_json")
        await talk.send("no-such", id=1)
        await talk.expect("error", id=1, code="unknown_type")
        await talk.say(b"\x00\xff")
        await talk.expect("error", code="unsupported")
        await talk.connection.ping(b"verify")
        await talk.send("list", id=2)
        await talk.expect("list", id=2)
    return "malformed, unknown, binary: told, and the connection stays open; ping is answered"


async def _delivered(site: Site) -> str:
    site.require_token()
    user = site.name("dan")
    async with site.listen("dan") as one, site.listen("dan") as other:
        for talk in (one, other):
            await talk.expect("welcome", unread=0)
        position = await _notify(site, to=user, title="T", body="B", data={"n": 1}, key="k")
        wanted = {"title": "T", "body": "B", "data": {"n": 1}, "read": False}
        for talk in (one, other):
            await talk.expect("notification", offset=position["offset"], **wanted)
        again = await _notify(site, to=user, title="T", key="k")
        require(again == position, "a retry with the same key was stored again")
        await one.send("read", offset=position["offset"])
        for talk in (one, other):
            await talk.expect("unread", count=0)
    return "to each connection of the user, read on all of them, once for a key"


async def _waiting(site: Site) -> str:
    site.require_token()
    user = site.name("eve")
    first = await _notify(site, to=user, title="one")
    await _notify(site, to=user, title="two")
    async with site.listen("eve", since=f"{first['epoch']}:{first['offset']}") as talk:
        await talk.expect("welcome", unread=2, recovered=True)
        await talk.expect("notification", title="two", read=False)
        await talk.send("list", id=1)
        listed = await talk.expect("list", id=1, more=False)
        titles = [item["title"] for item in listed["notifications"]]
        require(titles == ["one", "two"], f"listed: {shorten(listed)}")
    return "kept for a user who is away, recovered and listed"


async def _topics(site: Site) -> str:
    site.require_token()
    topic = site.name("news")
    async with site.listen("fay") as talk:
        await talk.expect("welcome")
        await talk.send("subscribe", topic=topic, id=1)
        await talk.expect("subscribed", topic=topic, id=1)
        await _notify(site, topic=topic, title="to all")
        await talk.expect("notification", title="to all")
    return "delivered to its subscribers"


CHECKS = (
    Check("notifications: commands", _commands),
    Check("notifications: errors, binary, ping", _errors),
    Check("notifications: delivered", _delivered),
    Check("notifications: waiting", _waiting),
    Check("notifications: a shared topic", _topics),
)
