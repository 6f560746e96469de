"""Whatever clients send and handlers do, at once and in any order: the gateway's guarantees hold.

A program is run in one ``trio.run()`` on virtual time; then what each client received is read by
h11 and by the letter of RFC 6455, and compared with what its handler did.
"""

import pytest
from hypothesis import HealthCheck, Phase, example, find, given, settings
from hypothesis import strategies as st

from tests.properties.deeds import Record
from tests.properties.oracle import BINARY, PING, PONG, TEXT, Wire, accept_token, read_wire
from tests.properties.programs import (
    HTTP,
    KEYS,
    UPGRADES,
    Client,
    Eof,
    HandlerScript,
    Leave,
    Program,
    Reset,
    Send,
    Step,
    Wait,
    programs,
)
from tests.properties.world import World


def check(program: Program) -> None:
    """Run a program and judge it; AssertionError says what is wrong."""
    for record in World(program).run():
        _judge(record, drained=program.drain is not None)


def _judge(record: Record, *, drained: bool) -> None:
    client = record.client
    assert [] == record.wrong
    assert record.runs <= 1
    assert record.accepts + record.rejects <= 1
    wire = read_wire(record.wire)
    if wire.upgrade is not None:
        _judge_connection(record, wire)
    if not client.stays:
        return
    assert record.ended
    if client.reads and not drained:
        assert b"" == wire.cut
    if client.reads:
        assert (wire.upgrade is not None) == record.accepts
    if record.runs and client.reads:
        _judge_answer(record, wire)
    if not drained and not client.eof and client.reads:
        assert wire.responses, "a client that stayed was not answered"


def _judge_answer(record: Record, wire: Wire) -> None:
    """Every upgrade whose peer stayed is answered, by its handler or for it."""
    status = wire.responses[-1].status
    if record.accepts:
        assert 101 == status
    elif record.rejects:
        assert 403 == status
    else:
        assert status in {500, 503}


def _judge_connection(record: Record, wire: Wire) -> None:
    client = record.client
    assert wire.upgrade is not None
    assert 1 == record.accepts
    keys = (
        KEYS
        if not client.asks_first
        else KEYS[:1]
        if client.pieces[0] != "second upgrade"
        else KEYS[1:]
    )
    assert wire.upgrade.header(b"sec-websocket-accept") in map(accept_token, keys)
    sent = [
        frame.payload.decode() if frame.opcode == TEXT else frame.payload
        for frame in wire.frames
        if frame.opcode in {TEXT, BINARY}
    ]
    assert sent == record.messages_out[: len(sent)]
    if client.asks_first:
        for received, expected in zip_longest(record.messages_in, client.messages):
            assert received in {expected, None} or expected is None


@given(programs)
def test_any_program_keeps_the_guarantees(program: Program) -> None:
    """At most one 101 a socket, no HTTP behind it, every upgrade answered, nothing left, nobody hurt."""
    check(program)
