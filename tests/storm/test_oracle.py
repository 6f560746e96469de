"""What a socket did, and how long it had for it, makes a finding or none."""

import pytest

from trio_gateway.storm import Bounds, Recording, Sample
from trio_gateway.storm.octets import KEY, accept_of
from trio_gateway.storm.oracle import Oracle
from trio_gateway.storm.record import Record

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n\r\n"
)


def found(record: Record, *samples: Sample) -> list[str]:
    """Return the rules that a record breaks; the bound for an answer is 10 s."""
    recording = Recording(samples=list(samples))
    Oracle(recording, "gateway", Bounds(answer=10.0)).judge(record)
    return [finding.rule for finding in recording.findings]


def sample(second: float, *, lag: float = 0.0, **gauges: float) -> Sample:
    return Sample(
        second=second,
        seconds=1.0,
        open=1,
        connects=0,
        accepts=(),
        controls=(),
        statuses={},
        closes={},
        lag=lag,
        gauges=gauges,
    )


def held(*, answered: float | None, said: float, ended: float) -> Record:
    """A well-behaved socket that said its Close and was not answered."""
    record = Record(0, "well-behaved", 0.0, asked=0.0, answered=answered, said=said)
    if answered is not None:
        record.reader.feed(SWITCH)
    record.end, record.ended = "held", ended
    return record


@pytest.mark.parametrize(
    "answered, said, ended, rules",
    [
        (None, 0.0, 9.0, []),
        (None, 0.0, 11.0, ["outcome"]),
        # A head that dribbles in does not put off the bound for its answer.
        (None, 10.5, 11.0, ["outcome"]),
        # Found by a storm of thousands a second: upgraded late, it had said its Close just before
        # the storm was over, and its whole life was taken for the time it had waited.
        (9.5, 11.0, 12.5, []),
        (0.1, 1.0, 12.5, ["outcome"]),
        (9.5, 2.0, 25.0, ["outcome"]),
    ],
)
def test_what_is_held_was_waited_for(
    answered: float | None, said: float, ended: float, rules: list[str]
) -> None:
    """The time counts from when the server had something to do."""
    assert rules == found(held(answered=answered, said=said, ended=ended))


@pytest.mark.parametrize(
    "samples, rules",
    [
        ([sample(1.0), sample(12.0)], ["outcome"]),
        ([sample(1.0, lag=1.0), sample(12.0, lag=2.0)], []),
        ([sample(1.0, starved=5.0), sample(12.0, starved=8.0)], []),
        ([sample(1.0, starved=5.0), sample(12.0, starved=5.5)], ["outcome"]),
        ([sample(1.0, starved=5.0), sample(2.0), sample(12.0, starved=8.0)], []),
        # Starved before it was asked is no excuse; nor do the same seconds count twice.
        ([sample(-9.0, starved=0.0), sample(-1.0, starved=8.0)], ["outcome"]),
        ([sample(1.0, lag=0.4, starved=5.0), sample(12.0, lag=0.4, starved=5.8)], ["outcome"]),
    ],
)
def test_seconds_that_nobody_had_do_not_count(samples: list[Sample], rules: list[str]) -> None:
    """Neither our own lag nor a server that the machine does not run makes it late."""
    assert rules == found(held(answered=0.0, said=0.0, ended=11.5), *samples)


def test_what_only_grows_is_no_leak() -> None:
    """A process that waited for a processor has kept nothing."""
    oracle = Oracle(Recording(), "gateway", Bounds())
    before = {"starved": 1.0, "descriptors": 5.0}
    assert [] == oracle.compare(before, before | {"starved": 9.0})
    assert ["descriptors"] == [
        finding.rule for finding in oracle.compare(before, before | {"descriptors": 6.0})
    ]
