"""The verdict on a run: what each client received, against what its handler did.

In: a program. Out: nothing, or AssertionError. The rule: h11 and the letter of RFC 6455 read the
bytes; no code of the gateway's judges itself.
"""

import json

from tests.properties.deeds import Record
from tests.properties.oracle import Wire, accept_token, read_wire
from tests.properties.programs import KEYS, Program
from tests.properties.world import World


def check(program: Program) -> None:
    """Run a program and judge it; AssertionError says what is wrong."""
    for record in World(program).run():
        wire = _judge(record, compress=program.compress)
        if program.cancel is None and record.client.stays:
            _judge_end(record, wire, drained=program.drain is not None)


def _judge(record: Record, *, compress: bool) -> Wire:
    """What holds at any time: one decision, and a wire that can be read."""
    assert [] == record.wrong
    assert record.runs <= 1
    assert record.accepts + record.rejects <= 1
    wire = read_wire(record.wire)
    if wire.upgrade is not None:
        _judge_connection(record, wire, compress=compress)
    return wire


def _judge_end(record: Record, wire: Wire, *, drained: bool) -> None:
    """What has come of a client that stayed."""
    assert record.ended
    if record.client.reads and not record.dropped:
        assert bool(record.accepts) == (wire.upgrade is not None)
        if record.runs:
            _judge_answer(record, wire, drained=drained)
        if not drained:
            assert b"" == wire.cut
            assert wire.responses or record.client.eof
            assert record.messages_out == wire.messages


def _judge_answer(record: Record, wire: Wire, *, drained: bool) -> None:
    """Every upgrade whose peer stayed is answered, by its handler or for it."""
    status = wire.responses[-1].status
    if record.accepts:
        assert 101 == status
    elif record.rejects:
        assert 403 == status
    elif drained or record.fate == "cancelled":
        assert status in {500, 503}
    else:
        error = json.loads(wire.responses[-1].body)["error"]
        expected = "handler_failed" if record.fate == "failed" else "undecided"
        # Only who takes no notice of being cancelled may go on behind the deadline.
        assert (status, error) == (500, expected) or "swallow" in record.script.deeds


def _judge_connection(record: Record, wire: Wire, *, compress: bool) -> None:
    """The 101 answers a key that was sent; behind it comes what the handler sent, in order."""
    client = record.client
    assert 1 == record.accepts
    assert wire.upgrade is not None
    keys = [KEYS[client.pieces[0] == "second upgrade"]] if client.asks_first else KEYS
    token = wire.upgrade.header(b"sec-websocket-accept")
    assert token in [accept_token(key) for key in keys]
    assert record.messages_out[: len(wire.messages)] == wire.messages
    compressed = wire.upgrade.header(b"sec-websocket-extensions") is not None
    assert compress or not compressed
    if client.asks_first:
        assert compressed == (compress and client.pieces[0] == "upgrade with deflate")
        assert client.may_bring(record.messages_in, compressed=compressed)
