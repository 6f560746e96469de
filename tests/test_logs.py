"""What lines say of connections, and how many come."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest
import trio
from trio_websocket import ConnectionClosed

from trio_gateway.cli.logs import hide_tokens
from trio_gateway.handshake.authentication import Identity
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.logs import ConnectionFilter, Throttle, connection_fields
from trio_gateway.routing import Router
from trio_gateway.testing import open_gateway

LOGGER = "trio_gateway.tests"


async def ann(_: Upgrade) -> Identity:
    """Say that everybody is Ann."""
    return Identity("ann")


async def test_a_handler_knows_whose_line_it_writes() -> None:
    """Before the 101 without an id; its children know it too, and nobody outside."""
    told: list[dict[str, str]] = []

    async def note() -> None:
        told.append(connection_fields())

    async def handler(upgrade: Upgrade) -> None:
        await note()
        connection = await upgrade.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note)
        await connection.send_message(connection.id)

    router = Router()
    router.route("/rooms/{room}", handler)
    async with (
        open_gateway(router, authenticate=ann) as server,
        server.open_websocket("/rooms/blue?token=secret") as client,
    ):
        id = await client.get_message()
    known = {"client": "memory", "route": "/rooms/{room}", "user": "ann"}
    known["client"] = told[0]["client"]
    assert [known, {**known, "connection": id}] == told
    assert {} == connection_fields()


async def test_a_failure_says_whose_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """The handler's, with the fields of its connection; no query."""

    async def handler(upgrade: Upgrade) -> None:
        await upgrade.accept()
        raise RuntimeError("ours")

    async with open_gateway(handler) as server, server.open_websocket("/a?token=secret") as client:
        with pytest.raises(ConnectionClosed):
            await client.get_message()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    about = vars(record)
    assert ("/{:path}", 16) == (about["route"], len(about["connection"]))
    assert "secret" not in record.getMessage()


async def test_what_ended_badly_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """With the code; the peer's reason is the peer's business. An ordinary end is none."""
    caplog.set_level(logging.INFO, "trio_gateway")

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async for _ in connection:
            pass

    async with open_gateway(handler) as server:
        async with server.open_websocket("/") as client:
            await client.aclose(1000, "my words")
        async with server.open_websocket("/") as client:
            await client.aclose(1008, "my words")
        await server.gateway.drain()
    lines = [record.getMessage() for record in caplog.records]
    assert ["connection closed with 1008"] == lines
    assert "my words" not in str([vars(record) for record in caplog.records])


def test_a_filter_gives_every_record_the_fields() -> None:
    """For a format that names them; what a record has stays."""
    record = logging.makeLogRecord({"msg": "x", "user": "ann"})
    assert ConnectionFilter().filter(record)
    assert ("ann", "-") == (vars(record)["user"], vars(record)["client"])


class Storm:
    """A logger behind a throttle, with a clock that stands still."""

    def __init__(self, per_second: int) -> None:
        self.now = 0.0
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.lines: list[str] = []
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.lines.append(  # type: ignore[method-assign]  # a list
            record.getMessage()
        )
        self.throttle = Throttle(
            per_second,
            clock=lambda: self.now,
            later=lambda seconds, call: self.later.append((seconds, call)),
        )
        self.handler.addFilter(self.throttle)
        self.log = logging.getLogger(LOGGER)


@pytest.fixture
def storm() -> Iterator[Storm]:
    """A storm that lets two lines a second pass."""
    storm = Storm(2)
    storm.log.addHandler(storm.handler)
    storm.log.propagate = False
    yield storm
    storm.log.removeHandler(storm.handler)
    storm.log.propagate = True


def test_a_storm_is_a_few_lines_and_a_sum(storm: Storm) -> None:
    """The same text with other arguments is the same event; another text is another."""
    for number in range(10):
        storm.log.warning("%d bad heads", number)
    storm.log.warning("another")
    assert ["0 bad heads", "1 bad heads", "another"] == storm.lines
    ((seconds, summarise),) = storm.later
    storm.now = seconds
    summarise()
    assert ["8 more in a second: %d bad heads"] == storm.lines[3:]
    storm.log.warning("%d bad heads", 11)
    assert "11 bad heads" == storm.lines[-1]


def test_the_next_second_tells_of_the_last(storm: Storm) -> None:
    """Even if nobody's clock does."""
    for _ in range(2):
        for number in range(5):
            storm.log.warning("%d bad heads", number)
        storm.now += 1.5
    storm.throttle.summarise()
    sums = [line for line in storm.lines if "more" in line]
    assert ["3 more in a second: %d bad heads"] * 2 == sums
    assert 2 * 2 + 2 == len(storm.lines)


def test_the_end_of_the_program_tells_what_is_left(storm: Storm) -> None:
    """Within the second, too."""
    for number in range(5):
        storm.log.warning("%d bad heads", number)
    storm.throttle.summarise()
    assert 2 == len(storm.lines)
    storm.throttle.summarise(of_now=True)
    assert 3 == len(storm.lines)
    storm.throttle.summarise(of_now=True)
    assert 3 == len(storm.lines)


def test_kinds_of_lines_are_bounded(storm: Storm) -> None:
    """Whoever puts arguments into the text costs no more memory than others."""
    for number in range(5_000):
        storm.log.warning(f"text {number}")  # noqa: G004, RUF100  # what it is about
    assert len(storm.throttle._events) <= 1_000
    assert 5_000 == len(storm.lines)


@pytest.mark.parametrize(
    "text, hidden",
    [
        ("GET /?token=abc.def&room=a", "GET /?token=[hidden]&room=a"),
        ("Authorization: Bearer abc", "Authorization: Bearer [hidden]"),
        ("protocols bearer, abc", "protocols bearer, [hidden]"),
        ('{"token": "abc"}', '{"token": "[hidden]"}'),
        ("got eyJhbGciOi.eyJzdWIi.c2ln", "got [hidden]"),
        ("the token expired", "the token expired"),
    ],
)
def test_what_looks_like_a_token_is_hidden(text: str, hidden: str) -> None:
    """In every value of a line."""
    assert {"event": hidden, "n": 1} == hide_tokens(None, "info", {"event": text, "n": 1})
    json.dumps(hidden)
