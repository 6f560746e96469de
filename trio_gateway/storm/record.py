"""What happened: on one socket, in a whole storm, moment by moment.

In: the runner's and the oracle's notes. Out: values, for the terminal, for files, for a page.
The rule: what a report shows is in here as data; nothing in here does anything.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

from trio_gateway.storm.reader import Reader

_MAX_LOG = 48
SHOWN = 160


@attrs.define(eq=False)
class Record:
    """One socket of a client, from its connect to its end.

    Attributes:
        client: the number of its script.
        fault: the script's fault.
        opened: seconds after the storm's start; as all times here.
        reader: what the server said.
        asked: when the request was out; None if it never was.
        answered: when the first answer was whole, or the 101; None if there was none.
        said: when we sent something last.
        ended: when it was over.
        end: ``end`` (the server's FIN), ``reset`` (its RST), ``left`` (we went), ``held`` (we
            gave up waiting), ``unreachable``.
        awaited: what was waited for in vain.
        cut_off: the storm ended before the client did.
        not_read: the client did not read for a while, so that its times say nothing.
        log: what was sent and received, and when.
    """

    client: int
    fault: str
    opened: float
    reader: Reader = attrs.Factory(Reader)
    asked: float | None = None
    answered: float | None = None
    said: float = 0.0
    ended: float = 0.0
    end: str = "left"
    awaited: str | None = None
    cut_off: bool = False
    not_read: bool = False
    log: list[tuple[float, str, Any]] = attrs.Factory(list)

    def note(self, second: float, what: str, detail: Any) -> None:
        """Write a line of the log; of a long story the middle is missing."""
        if len(self.log) < _MAX_LOG:
            self.log.append((second, what, detail))
        else:
            self.log[-1] = (second, what, detail)

    @property
    def waiting(self) -> float:
        """Since when the server has something to do: to answer, or to see to what we sent last.

        A socket that nothing has come on waits from its beginning, however slowly we ask.
        """
        return self.opened if self.answered is None else max(self.answered, self.said)

    @property
    def outcome(self) -> str:
        """STATUS CLOSE END, with ``-`` for what never came."""
        status, close = self.reader.status, self.reader.close
        return f"{'-' if status is None else status} {'-' if close is None else close} {self.end}"


@attrs.frozen
class Finding:
    """Something that must not be.

    Attributes:
        rule: which rule was broken; what a smaller storm has to break too.
        message: one sentence.
        second: when.
        fault: the fault of the client it was seen by; None where nobody in particular.
        client: that client.
        transcript: what that client sent and saw, line by line.
        outcome: how that client's socket ended, where that is what must not be.
    """

    rule: str
    message: str
    second: float = 0.0
    fault: str | None = None
    client: int | None = None
    transcript: tuple[str, ...] = ()
    outcome: str | None = None

    def is_like(self, other: "Finding") -> bool:
        """Return whether both are the same failure, be it by another client at another time.

        What a client of the storm has seen is not what the storm's own healthy ones see.
        """
        mine = (self.rule, self.outcome, self.client is None)
        return mine == (other.rule, other.outcome, other.client is None)

    def __str__(self) -> str:
        who = "" if self.fault is None else f" (client {self.client}, {self.fault})"
        return f"{self.second:7.3f} s  {self.rule}: {self.message}{who}"


@attrs.frozen(kw_only=True)
class Sample:
    """One interval of a storm.

    Attributes:
        second: its end, after the start.
        seconds: its length.
        open: sockets open at its end.
        connects: sockets opened in it.
        accepts: latencies of connect to 101 of well-behaved clients, in seconds.
        controls: latencies of control messages, in seconds.
        statuses: first answers in it, by status.
        closes: Close frames in it, by code.
        lag: how late this process's own clock ran, at worst, in seconds.
        gauges: ``descriptors``, ``memory`` (bytes), ``tasks``, …; empty where nobody can tell.
    """

    second: float
    seconds: float
    open: int
    connects: int
    accepts: tuple[float, ...]
    controls: tuple[float, ...]
    statuses: dict[str, int]
    closes: dict[int, int]
    lag: float
    gauges: dict[str, float]


@attrs.define(kw_only=True)
class Recording:
    """A storm over time.

    Attributes:
        seed: of the program.
        url: of the target.
        profile: ``gateway`` or ``any``.
        started: seconds since 1970.
        samples: one an interval, in order.
        statuses: first answers by fault and status.
        closes: Close frames by fault and code.
        outcomes: sockets by fault and outcome.
        findings: in the order in which they were found, each kind once.
        repeats: how often each kind of finding was seen, by rule and fault.
        baseline: gauges before the storm, warm.
        after: gauges when all was over.
        connects: sockets opened.
        lacking: connects that failed for want of our own descriptors or ports.
        seconds: from the first start to the last end.
        suspects: by rule, the clients that were there when it was broken, the likeliest first.
    """

    seed: int = 0
    url: str = ""
    profile: str = "any"
    started: float = 0.0
    samples: list[Sample] = attrs.Factory(list)
    statuses: dict[str, Counter[str]] = attrs.Factory(dict)
    closes: dict[str, Counter[int]] = attrs.Factory(dict)
    outcomes: dict[str, Counter[str]] = attrs.Factory(dict)
    findings: list[Finding] = attrs.Factory(list)
    repeats: Counter[tuple[str, str | None]] = attrs.Factory(Counter)
    baseline: dict[str, float] = attrs.Factory(dict)
    after: dict[str, float] = attrs.Factory(dict)
    connects: int = 0
    lacking: int = 0
    seconds: float = 0.0
    suspects: dict[str, tuple[int, ...]] = attrs.Factory(dict)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def rush(self) -> list[Sample]:
        """Return the samples in which clients came: at a tenth of the fastest rate or more."""
        fastest = max((s.connects / (s.seconds or 1.0) for s in self.samples), default=0.0)
        return [s for s in self.samples if s.connects and s.connects >= fastest * s.seconds / 10]

    def rate(self) -> float:
        """Return the connects a second in the rush."""
        rush = self.rush()
        seconds = sum(sample.seconds for sample in rush)
        return sum(sample.connects for sample in rush) / seconds if seconds else 0.0

    def controls(self) -> list[float]:
        """Return the latencies of control messages in the rush, sorted, in seconds.

        Those of the quiet time behind it, when the last patient clients leave, would flatter.
        """
        return sorted(latency for sample in self.rush() for latency in sample.controls)

    def accepts(self) -> list[float]:
        """Return all accept latencies of well-behaved clients, sorted, in seconds."""
        return sorted(latency for sample in self.samples for latency in sample.accepts)

    def answers(self) -> Iterator[tuple[str, int]]:
        """Return the first answers of all faults together, the commonest first."""
        everything: Counter[str] = sum(self.statuses.values(), Counter())
        yield from everything.most_common()


def percentile(values: list[float], part: float) -> float:
    """Return the value that ``part`` of sorted values do not pass; 0 without any."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0.0
