"""The world a program runs in: a gateway over memory, its clients, and a healthy one beside them.

In: a program. Out: what each client received and each handler did, or AssertionError. The rule: a
run is a function of its program; time is virtual, and nothing outlives it.
"""

import logging
import math
from collections.abc import Iterable

import attrs
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection

from tests.properties.deeds import Actor, Record
from tests.properties.programs import MAX_MESSAGE_BYTES, Eof, Leave, Program, Reset, Send, Wait
from tests.properties.scheduling import schedule
from trio_gateway import (
    Compression,
    Gateway,
    Heartbeat,
    HttpRequest,
    HttpResponse,
    Limits,
    Refusal,
    Router,
    Timeouts,
    Upgrade,
)
from trio_gateway.testing import MemoryStream, OpenGateway, open_gateway

_LIMITS = Limits(
    max_message_bytes=MAX_MESSAGE_BYTES,
    max_early_bytes=200,
    max_queued_bytes=1000,
    max_outbox_bytes=2000,
    max_body_bytes=1000,
)
_TIMEOUTS = Timeouts(
    handshake_timeout=2,
    decision_timeout=3,
    body_timeout=2,
    response_timeout=2,
    keep_alive_timeout=2,
    send_timeout=2,
    closing_timeout=1,
    linger_timeout=0.5,
)
_HEARTBEAT = Heartbeat(interval=3, pong_timeout=1)
_COMPRESSION = Compression(min_bytes=8)
_GRACE = 2.0
_BETWEEN_SEGMENTS = 0.001
_BETWEEN_ECHOES = 0.5
_PATIENCE = 0.25  # of the healthy client
_ALL_ENDS = 60.0  # longer than anything here may take
_SETTLED = 15.0  # longer than all time limits together
_EXPECTED_LOGS = {
    "handler of %s failed (connection from %s)",
    "the HTTP handler failed at %s",
    "the HTTP handler's answer at %s cannot be sent",
}


@attrs.frozen
class Holdings:
    """What the gateway holds at one moment."""

    sockets: int = 0
    pending_handshakes: int = 0
    pending_upgrades: int = 0
    connections: int = 0
    handlers: int = 0
    places: int = 0
    deadlines: int = 0
    tasks: int = 0


class World:
    """One run of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.records = [Record(client, script) for client, script in program.clients]
        self._draining = False
        self._over = trio.Event()

    def run(self) -> list[Record]:
        """Run the program; AssertionError says what went wrong in it."""
        logs = _Logs()
        schedule(self.program.order)
        with logs:
            trio.run(self._main, clock=trio.testing.MockClock(autojump_threshold=0))
        assert logs.formats <= _EXPECTED_LOGS
        return self.records

    async def _main(self) -> None:
        router = Router()
        router.route("/{n:int}", self._handle)
        router.route("/control", _echo)
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with open_gateway(
            router,
            max_buffered_bytes=self.program.buffer,
            limits=_LIMITS,
            timeouts=_TIMEOUTS,
            heartbeat=_HEARTBEAT,
            http=_answer if self.program.http else None,
            compression=_COMPRESSION if self.program.compress else None,
        ) as server:
            cancel = math.inf if self.program.cancel is None else self.program.cancel
            with trio.move_on_after(cancel), trio.fail_after(_ALL_ENDS + 2 * _SETTLED):
                async with server.open_websocket("/control") as control:
                    await self._play(server, control)
                await trio.sleep(_SETTLED)
        assert Holdings(tasks=tasks) == _holdings(server.gateway)

    async def _play(self, server: OpenGateway, control: WebSocketConnection) -> None:
        await _check_echo(control, "first")
        await trio.testing.wait_all_tasks_blocked()
        before = _holdings(server.gateway)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._control, control)
            with trio.fail_after(_ALL_ENDS):
                async with trio.open_nursery() as clients:
                    for number, record in enumerate(self.records):
                        clients.start_soon(self._client, await server.connect(), number, record)
                    if self.program.drain is not None:
                        clients.start_soon(self._drain, server.gateway, self.program.drain)
            await trio.sleep(_SETTLED)
            self._over.set()
        await trio.testing.wait_all_tasks_blocked()
        after = _holdings(server.gateway)
        if self.program.drain is None:
            hanging = sum(record.hangs for record in self.records)
            before = attrs.evolve(
                before, handlers=before.handlers + hanging, tasks=before.tasks + hanging
            )
            assert before == after
        else:
            assert Holdings(tasks=after.tasks) == after

    async def _handle(self, upgrade: Upgrade) -> None:
        await Actor(upgrade, self.records[upgrade.params["n"]]).act()

    async def _drain(self, gateway: Gateway, after: float) -> None:
        await trio.sleep(after)
        self._draining = True
        with trio.fail_after(_GRACE + _PATIENCE):
            await gateway.drain(_GRACE)

    # The healthy client.

    async def _control(self, control: WebSocketConnection) -> None:
        """Echo all the time; nothing of what the others do may be felt here."""
        number = 0
        try:
            while not self._over.is_set():
                await _check_echo(control, f"{number}")
                number += 1
                with trio.move_on_after(_BETWEEN_ECHOES):
                    await self._over.wait()
        except ConnectionClosed:
            assert self._draining
            assert control.closed is not None
            assert 1012 == control.closed.code

    # The others.

    async def _client(self, stream: MemoryStream, number: int, record: Record) -> None:
        client = record.client
        async with trio.open_nursery() as nursery:
            if client.reads:
                nursery.start_soon(_receive, stream, record)
            for step in client.steps:
                match step:
                    case Send():
                        await _send(stream, step.segments(number), record)
                    case Wait():
                        await trio.sleep(step.seconds)
                    case Eof():
                        await stream.send_eof()
                    case Leave():
                        await stream.aclose()
                        return
                    case Reset():
                        stream.send_stream.reset()
                        return
            if not client.reads:
                await trio.sleep(_ALL_ENDS / 2)
                nursery.start_soon(_receive, stream, record)
        await stream.aclose()


async def _send(stream: MemoryStream, segments: Iterable[bytes], record: Record) -> None:
    try:
        for segment in segments:
            await stream.send_all(segment)
            await trio.sleep(_BETWEEN_SEGMENTS)
    except trio.BrokenResourceError:
        record.sent_all = False


async def _receive(stream: MemoryStream, record: Record) -> None:
    try:
        async for data in stream:
            record.received.append((trio.current_time(), bytes(data)))
        record.ended = True
    except (trio.ClosedResourceError, trio.BrokenResourceError):
        assert not record.client.stays


async def _check_echo(control: WebSocketConnection, text: str) -> None:
    with trio.fail_after(_PATIENCE):
        await control.send_message(text)
        assert text == await control.get_message()


async def _echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


async def _answer(request: HttpRequest) -> HttpResponse | Refusal | None:
    match request.path:
        case "/plain":
            return HttpResponse.json(200, {"body": request.body.decode("latin-1")})
        case "/hang":
            await trio.sleep_forever()
        case "/fail":
            raise ExceptionGroup("fail", [RuntimeError("fails")])
        case "/odd":
            return 42  # type: ignore[return-value]  # what a handler without types may do
        case "/header":
            return HttpResponse(status=200, headers=(("X-Bad", "€"),))
        case "/refuse":
            return Refusal(429, "slow_down", "come back later")
        case _:
            pass
    return None


def _holdings(gateway: Gateway) -> Holdings:
    statistics = gateway.statistics()
    return Holdings(
        sockets=statistics.sockets,
        pending_handshakes=statistics.pending_handshakes,
        pending_upgrades=statistics.pending_upgrades,
        connections=statistics.connections,
        handlers=statistics.handlers,
        places=gateway._reception.admission.connections,
        deadlines=len(gateway._timers),
        tasks=trio.lowlevel.current_statistics().tasks_living,
    )


class _Logs(logging.Handler):
    """Takes the gateway's log instead of pytest, unformatted: a traceback costs a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.formats.add(record.msg)

    def __enter__(self) -> None:
        logger = logging.getLogger("trio_gateway")
        self._propagate, logger.propagate = logger.propagate, False
        logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("trio_gateway")
        logger.propagate = self._propagate
        logger.removeHandler(self)
