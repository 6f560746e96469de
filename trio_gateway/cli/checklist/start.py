"""The gateway starts clean, both of its addresses accept a client, and plain HTTP is answered."""

import trio

from trio_gateway.cli.checklist.probe import Check, Site, Talk, require, shorten

_AT_ONCE = 100


async def _starts_clean(site: Site) -> str:
    for path in ("/healthz", "/readyz"):
        answer = await site.request("GET", path)
        require(answer.status == 200, f"{path} answered {answer.describe()}")
    return "alive and ready"


async def _answers_http(site: Site) -> str:
    page = await site.request("GET", "/")
    # Without the page it is a WebSocket path like others.
    require(page.status in (200, 426), f"/ answered {page.describe()}")
    metrics = await site.request("GET", "/metrics")
    require(
        b"trio_gateway_connections " in metrics.body, "/metrics has no trio_gateway_connections"
    )
    plain = await site.request("GET", "/notifications/ws")
    require(
        plain.status == 426, f"/notifications/ws without an upgrade: {plain.describe()}, not 426"
    )
    require(
        plain.headers.get("upgrade", "").lower() == "websocket", "the 426 has no Upgrade header"
    )
    nothing = await site.request("GET", f"/{site.name('nothing')}")
    require(nothing.status == 404, f"a path of nothing: {nothing.describe()}, not 404")
    for refusal in (plain, nothing):
        body = refusal.json()
        whole = isinstance(body, dict) and {"error", "message"} <= body.keys()
        require(whole, f"a refusal says {shorten(refusal.body)}")
    return f"{'page' if page.status == 200 else 'no page'}, metrics, 404 and 426"


async def _chat_connects(site: Site) -> str:
    user, room = site.name("ann"), site.name("connects")
    async with site.connect("/", user=user, room=room) as talk:
        await talk.expect("welcome", user=user, room=room)
        joined = await talk.expect("joined", room=room, members=1)
        require({"epoch", "offset"} <= joined["position"].keys(), f"no position: {shorten(joined)}")
    async with site.connect("/", room=room) as talk:
        guest = await talk.expect("welcome")
        require(str(guest["user"]).startswith("guest-"), f"a guest is called {guest['user']}")
    return "welcome, joined; a guest has a name"


async def _notifications_connect(site: Site) -> str:
    async with site.listen("ann") as talk:
        await talk.expect("welcome", user=site.name("ann"), unread=0)
    return "welcome"


async def _many_at_once(site: Site) -> str:
    """All are open at the same moment before the first one closes."""
    count = 0
    everybody = trio.Event()
    start = trio.current_time()

    async def arrive(talk: Talk) -> None:
        nonlocal count
        await talk.expect("welcome")
        count += 1
        if count == 2 * _AT_ONCE:
            everybody.set()
        await everybody.wait()
        await talk.connection.ping()

    async def chat(number: int) -> None:
        async with site.connect("/", user=site.name(f"{number}"), room=site.name("many")) as talk:
            await arrive(talk)

    async def listen(number: int) -> None:
        async with site.listen(f"{number}") as talk:
            await arrive(talk)

    async with trio.open_nursery() as nursery:
        for number in range(_AT_ONCE):
            nursery.start_soon(chat, number)
            nursery.start_soon(listen, number)
    seconds = trio.current_time() - start
    return f"{_AT_ONCE} chat and {_AT_ONCE} notification connections in {seconds:.1f} s"


CHECKS = (
    Check("starts clean", _starts_clean),
    Check("plain HTTP is answered", _answers_http),
    Check("chat connects", _chat_connects),
    Check("notifications connect", _notifications_connect),
    Check("many at once", _many_at_once, timeout=20.0),
)
