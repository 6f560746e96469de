"""The gateway is stable under a short load: nothing lost, nothing twice, one order for all."""

import trio

from trio_gateway.cli.checklist.probe import Check, Site, Talk, require, shorten

_CLIENTS = 20
_MESSAGES = 50


async def _short_load(site: Site) -> str:
    heard: dict[str, list[tuple[int, str]]] = {}
    everybody = trio.Event()

    async def speak(talk: Talk, name: str) -> None:
        for number in range(_MESSAGES):
            await talk.send("message", text=f"{name} {number}")

    async def hear(talk: Talk, name: str) -> None:
        messages: list[tuple[int, str]] = []
        for _ in range(_CLIENTS * _MESSAGES):
            frame = await talk.expect("message")
            messages.append((frame["offset"], frame["text"]))
        heard[name] = messages

    async def take_part(name: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with site.chat(name, "load") as talk, trio.open_nursery() as nursery:
            task_status.started()
            await everybody.wait()
            nursery.start_soon(speak, talk, name)
            nursery.start_soon(hear, talk, name)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(_CLIENTS):
            await nursery.start(take_part, f"{number}")
        everybody.set()
    seconds = trio.current_time() - start
    _require_one_order(heard)
    count = _CLIENTS * _CLIENTS * _MESSAGES
    return f"{_CLIENTS} clients, {_MESSAGES} messages each, {count} deliveries in {seconds:.1f} s"


def _require_one_order(heard: dict[str, list[tuple[int, str]]]) -> None:
    name, messages = next(iter(heard.items()))
    for other, others in heard.items():
        require(others == messages, f"clients {name} and {other} heard different things")
    first = messages[0][0]
    offsets = [offset for offset, _ in messages]
    require(
        offsets == list(range(first, first + len(messages))),
        f"the offsets do not rise by one: {shorten(offsets)}",
    )
    for speaker in heard:
        said = [text for _, text in messages if text.startswith(f"{speaker} ")]
        in_order = [f"{speaker} {number}" for number in range(_MESSAGES)]
        require(said == in_order, f"client {speaker} was heard as {shorten(said)}")


async def _still_well(site: Site) -> str:
    answer = await site.request("GET", "/readyz")
    require(answer.status == 200, f"/readyz answered {answer.describe()}")
    async with site.chat("ann", "after") as talk:
        await talk.say("still here")
        await talk.expect("message", text="still here")
    return "ready, and chatting"


CHECKS = (
    Check("stable under a short load", _short_load, timeout=30.0),
    Check("well afterwards", _still_well),
)
