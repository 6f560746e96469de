"""Every message type of the chat."""

from trio_gateway.cli.checklist.probe import Check, Frame, Site, require, shorten


def _texts(frame: Frame) -> list[str]:
    return [message["text"] for message in frame["messages"]]


async def _message(site: Site) -> str:
    room = site.name("message")
    async with site.chat("ann", "message") as ann, site.chat("bob", "message") as bob:
        await ann.send("message", room=room, text="hello", id=1)
        # The acknowledgement and the sender's own copy come in either order.
        own = {frame["type"]: frame for frame in (await ann.receive(), await ann.receive())}
        require(own.keys() == {"ack", "message"}, f"the sender got {shorten(own)}")
        offset = own["ack"]["offset"]
        require(own["ack"]["id"] == 1, f"the ack is {shorten(own['ack'])}")
        for frame in (own["message"], await bob.receive()):
            wanted = {"type": "message", "room": room, "user": site.name("ann"), "text": "hello"}
            same = wanted.items() <= frame.items() and frame["offset"] == offset
            require(same and "time" in frame, f"the message came as {shorten(frame)}")
        await bob.say("a line of text")
        for talk in (ann, bob):
            await talk.expect("message", room=room, text="a line of text", offset=offset + 1)
    return "to everyone in the room, acknowledged; plain text is one too"


async def _key(site: Site) -> str:
    async with site.chat("ann", "key") as talk:
        await talk.send("message", text="once", key="k", id=1)
        got = [await talk.receive(), await talk.receive()]
        await talk.send("message", text="once", key="k", id=2)
        again = await talk.expect("ack", id=2)
        first = next(frame for frame in got if frame["type"] == "ack")
        require(again["offset"] == first["offset"], "a retry with the same key was stored again")
    return "a retry with the same key is stored once"


async def _join(site: Site) -> str:
    first, second = site.name("join"), site.name("join-2")
    async with site.chat("ann", "join") as talk:
        await talk.send("join", room=second, id="a")
        await talk.expect("joined", room=second, id="a", members=1, messages=[], recovered=True)
        await talk.say("to the room joined last")
        await talk.expect("message", room=second)
        await talk.send("leave", room=second, id="b")
        await talk.expect("left", room=second, id="b")
        await talk.send("message", room=second, text="from outside", id="c")
        await talk.expect("error", id="c", code="not_joined")
        await talk.say("to the room that is left")
        await talk.expect("message", room=first)
    return "joined, left"


async def _recovery(site: Site) -> str:
    room = site.name("recovery")
    async with site.chat("ann", "recovery") as talk:
        await talk.say("seen")
        seen = await talk.expect("message", text="seen")
        for text in ("missed", "missed too"):
            await talk.say(text)
            await talk.expect("message", text=text)
        await talk.send("join", room=room, id=1)
        epoch = (await talk.expect("joined", id=1))["position"]["epoch"]
        await talk.send("join", room=room, since={"epoch": epoch, "offset": seen["offset"]}, id=2)
        joined = await talk.expect("joined", id=2, recovered=True)
        require(_texts(joined) == ["missed", "missed too"], f"recovered {shorten(joined)}")
        await talk.send("join", room=room, since={"epoch": "no-such", "offset": 1}, id=3)
        await talk.expect("joined", id=3, recovered=False)
    query = {"room": room, "since": f"{epoch}:{seen['offset']}"}
    async with site.connect("/", **query) as talk:
        await talk.expect("welcome")
        joined = await talk.expect("joined", recovered=True)
        require(_texts(joined) == ["missed", "missed too"], f"?since= gave {shorten(joined)}")
    return "what was missed comes on joining; a lost epoch is told"


async def _history(site: Site) -> str:
    room = site.name("history")
    async with site.chat("ann", "history") as talk:
        for number in range(5):
            await talk.say(f"{number}")
            await talk.expect("message", text=f"{number}")
        await talk.send("history", room=room, limit=2, id=1)
        newest = await talk.expect("history", room=room, id=1, more=True)
        require(_texts(newest) == ["3", "4"], f"the newest two: {shorten(newest)}")
        await talk.send("history", room=room, before=newest["messages"][0]["offset"], id=2)
        older = await talk.expect("history", room=room, id=2, more=False)
        require(_texts(older) == ["0", "1", "2"], f"the older ones: {shorten(older)}")
    return "page by page"


async def _members(site: Site) -> str:
    room = site.name("members")
    async with site.chat("ann", "members") as ann, site.chat("bob", "members"):
        await ann.send("members", room=room, id=1)
        members = await ann.expect("members", room=room, id=1, count=2)
        names = sorted(members["members"])
        require(names == [site.name("ann"), site.name("bob")], f"they are {shorten(names)}")
    return "count and names"


async def _typing(site: Site) -> str:
    room = site.name("typing")
    async with site.chat("ann", "typing") as ann, site.chat("bob", "typing") as bob:
        await bob.send("typing", room=room)
        await ann.expect("typing", room=room, user=site.name("bob"))
        await bob.send("leave", room=room, id=1)
        await bob.expect("left", id=1)
    return "to the others only"


async def _presence(site: Site) -> str:
    room = site.name("presence")
    async with site.chat("ann", "elsewhere") as ann:
        await ann.send("join", room=room, presence=True, id=1)
        await ann.expect("joined", id=1)
        async with site.chat("bob", "presence"):
            # Presence is gathered: the first frame may tell of the one who asked.
            frame = await ann.expect("presence", room=room)
            while site.name("bob") not in frame.get("joined", []):
                frame = await ann.expect("presence", room=room)
            require(frame["count"] == 2, f"two are there: {shorten(frame)}")
        frame = await ann.expect("presence", room=room, count=1)
        require(frame["left"] == [site.name("bob")], f"bob has left: {shorten(frame)}")
    return "who came, who went"


async def _errors(site: Site) -> str:
    async with site.chat("ann", "errors") as talk:
        await talk.say("{")
        await talk.expect("error", code="bad_json")
        await talk.send("no-such", id=1)
        await talk.expect("error", id=1, code="unknown_type")
        await talk.send("join", room=7, id=2)
        await talk.expect("error", id=2, code="invalid_field")
        await talk.say(b"\x00\xff")
        await talk.expect("error", code="unsupported")
        await talk.send("members", room=site.name("errors"), unknown=True, id=3)
        await talk.expect("members", id=3, count=1)
    return "malformed, unknown, binary: told, and the connection stays open"


async def _ping(site: Site) -> str:
    async with site.chat("ann", "ping") as talk:
        await talk.connection.ping(b"verify")
    return "answered with the same bytes"


CHECKS = (
    Check("chat: message", _message),
    Check("chat: key", _key),
    Check("chat: join and leave", _join),
    Check("chat: recovery", _recovery),
    Check("chat: history", _history),
    Check("chat: members", _members),
    Check("chat: typing", _typing),
    Check("chat: presence", _presence),
    Check("chat: errors and binary", _errors),
    Check("chat: ping", _ping),
)
