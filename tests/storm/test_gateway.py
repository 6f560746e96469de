"""Our own gateway under storms: clean, and what a storm found once stays mended."""

from functools import partial

import pytest
import trio

from tests.rude.site import GUARD, echo, until
from trio_gateway import Gateway, HttpRequest, HttpResponse, Router, Upgrade, serve_websocket
from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.storm import Bounds, generate, of_this_process, run_storm
from trio_gateway.storm.pytest_plugin import Storm

BOUNDS = Bounds(patience=3.0, answer=3.0, accept=3.0, control=3.0, settle=8.0)


async def application(nursery: trio.Nursery) -> Gateway:
    served = Application(MemoryBroker(), ApplicationSettings()).gateway(
        await trio.open_tcp_listeners(0, host="127.0.0.1")
    )
    await nursery.start(served.run)
    return served


async def test_the_chat_is_clean(nursery: trio.Nursery, storm: Storm) -> None:
    """A small storm of the quick faults finds nothing, and nothing is left of it."""
    served = await application(nursery)
    program = generate(1, clients=80, duration=0.5)
    quick = [
        script
        for script in program.scripts
        if not script.fault.startswith(("slow", "dribbled", "herd", "half", "descriptor"))
    ]
    program = type(program)(1, 0.5, program.rate, tuple(quick))
    recording = await storm(
        f"ws://127.0.0.1:{served.port}/", program, bounds=BOUNDS, gauges=[of_this_process]
    )
    nursery.cancel_scope.cancel()
    assert "gateway" == recording.profile
    assert recording.controls()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
async def test_every_fault_is_clean(nursery: trio.Nursery, storm: Storm, seed: int) -> None:
    """500 clients of all faults; descriptors and tasks are back at the baseline."""
    served = await application(nursery)
    url = f"ws://127.0.0.1:{served.port}/"
    await storm(url, seed=seed, clients=500, duration=4.0, gauges=[of_this_process])
    nursery.cancel_scope.cancel()


async def test_any_application_can_be_stormed(nursery: trio.Nursery, storm: Storm) -> None:
    """A listener is enough; what a handler serves is found out."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    serve = partial(serve_websocket, echo, None, 0, None, listeners=listeners)
    await nursery.start(serve)
    faults = ["unmasked-frame", "garbage", "two-upgrades-in-one-segment"]
    recording = await storm(
        listeners[0], seed=2, clients=20, duration=0.2, faults=faults, bounds=BOUNDS
    )
    nursery.cancel_scope.cancel()
    assert 20 <= recording.connects


async def test_an_answer_to_who_is_gone_keeps_no_handshake(nursery: trio.Nursery) -> None:
    """Found by a storm: an RST before the answer of a kept-alive request leaked a slot for ever."""
    answering, answer = trio.Event(), trio.Event()

    async def http(request: HttpRequest) -> HttpResponse:
        answering.set()
        await answer.wait()
        return HttpResponse(status=200, body=b"late", content_type="text/plain")

    serve = partial(serve_websocket, Router(), "127.0.0.1", 0, None, http=http)
    gateway: Gateway = await nursery.start(serve)
    with trio.fail_after(GUARD):
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        await answering.wait()
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(stream)
        answer.set()
        await until(lambda: not (gateway.statistics().sockets or gateway.statistics().handlers))
    assert 0 == gateway.statistics().pending_handshakes
    nursery.cancel_scope.cancel()


async def test_control_connections_have_a_process_of_their_own(nursery: trio.Nursery) -> None:
    """Their latencies come over, and a storm that blocks its own process has no part in them."""
    served = await application(nursery)
    program = generate(4, clients=10, duration=0.5, faults=["unmasked-frame"])
    recording = await run_storm(
        f"ws://127.0.0.1:{served.port}/", program, bounds=BOUNDS, apart=True
    )
    nursery.cancel_scope.cancel()
    assert [] == [str(finding) for finding in recording.findings]
    assert sum(len(sample.controls) for sample in recording.samples) >= BOUNDS.controls


async def test_a_control_process_tells_of_losses(nursery: trio.Nursery) -> None:
    """A server that hangs up on healthy clients is found from there too."""

    async def hang_up(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        message = await connection.get_message()
        if "survey" in str(message):
            await connection.send_message(message)
        await connection.aclose()

    router = Router()
    router.route("/", hang_up)
    serve = partial(serve_websocket, router, "127.0.0.1", 0, None)
    gateway: Gateway = await nursery.start(serve)
    program = generate(4, clients=2, duration=0.5, faults=["connect-and-vanish"])
    url = f"ws://127.0.0.1:{gateway.port}/"
    recording = await run_storm(url, program, bounds=BOUNDS, apart=True)
    nursery.cancel_scope.cancel()
    assert "control-lost" in {finding.rule for finding in recording.findings}
