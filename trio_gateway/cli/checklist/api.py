"""The HTTP API, from both sides."""

from urllib.parse import quote

from trio_gateway.cli.checklist.probe import Check, Site, require, shorten


async def _refuses_strangers(site: Site) -> str:
    body = {"room": site.name("api"), "user": "mallory", "text": "psst"}
    answer = await site.target.request("POST", "/api/messages", body=body)
    require(answer.status in (401, 403), f"without a token: {answer.describe()}, not 401 or 403")
    return f"{answer.status} without a token"


async def _publishes(site: Site) -> str:
    site.require_token()
    room, user = site.name("api"), site.name("backend")
    async with site.chat("ann", "api") as talk:
        body = {"room": room, "user": user, "text": "from a backend"}
        answer = await site.request("POST", "/api/messages", body=body)
        require(answer.status == 201, f"POST /api/messages: {answer.describe()}")
        published = answer.json() or {}
        frame = await talk.expect("message", room=room, user=user, text="from a backend")
        require(published.get("offset") == frame["offset"], f"201 says {shorten(published)}")
        history = await site.request("GET", f"/api/rooms/{quote(room, safe='')}/history")
        page = history.json()
        require(history.status == 200 and isinstance(page, dict), f"history: {history.describe()}")
        texts = [message["text"] for message in page["messages"]]
        require(texts == ["from a backend"], f"history: {shorten(page)}")
        members = await site.request("GET", f"/api/rooms/{quote(room, safe='')}/members")
        require((members.json() or {}).get("count") == 1, f"members: {members.describe()}")
        bad = await site.request("POST", "/api/messages", body={"room": room, "user": user})
        require(bad.status == 400, f"a message without a text: {bad.describe()}, not 400")
    return "a message reaches the room; history, members, 400"


CHECKS = (
    Check("API: refuses strangers", _refuses_strangers),
    Check("API: publishes and reads", _publishes),
)
