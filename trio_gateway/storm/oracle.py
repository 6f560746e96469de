"""The oracle: what a socket said, and what is left of a storm, against what may be.

In: records as they end, gauges before and after. Out: findings. The rules: a broken rule of
``reader.py`` is a finding on any server; an outcome is allowed by its fault, by the profile, or it
is a finding; what returns to its warm baseline within a bound is no leak.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import attrs

from trio_gateway.storm.faults import FAULTS, SHED, Profile
from trio_gateway.storm.gauges import STARVED
from trio_gateway.storm.record import Finding, Record, Recording
from trio_gateway.storm.transcript import tell_record

_MAX_TOLD = 100
_MIB = 2**20
_LEAKS = {"descriptors": "descriptors", "sockets": "descriptors", "memory": "memory"}


@attrs.frozen(kw_only=True)
class Bounds:
    """How much, how long, how late.

    Attributes:
        max_open: sockets open at once.
        patience: seconds for clients to end after the last one's start; then they are cut off.
        answer: seconds for a whole request to be answered.
        accept: seconds for an upgrade of a well-behaved client, during the storm and after it.
        control: seconds for a control connection to get its message back.
        settle: seconds for gauges to return to the baseline.
        controls: control connections.
        memory: bytes by which a server's memory may have grown after the storm.
        probe: seconds between two looks whether the server is still there.
    """

    max_open: int = 2000
    patience: float = 12.0
    answer: float = 10.0
    accept: float = 10.0
    control: float = 10.0
    settle: float = 20.0
    controls: int = 4
    memory: int = 48 * _MIB
    probe: float = 0.5


@attrs.define(eq=False)
class Oracle:
    """Judges, counts, and keeps each kind of finding once.

    Arguments:
        recording: where findings and counts go.
        profile: what the server promises.
        bounds: how late is too late.

    Attributes:
        forgiving: the server is being restarted: nothing that ends or is refused is a finding.
        dead: the server is gone.
    """

    recording: Recording
    profile: Profile
    bounds: Bounds
    forgiving: bool = False
    dead: bool = False

    def judge(self, record: Record) -> None:
        """Judge a socket that is over."""
        self._count(record)
        for finding in self._findings(record):
            self.find(finding)

    def find(self, finding: Finding) -> None:
        """Keep a finding, or count it where its kind is known."""
        kind = (finding.rule, finding.fault)
        self.recording.repeats[kind] += 1
        if self.recording.repeats[kind] == 1 and len(self.recording.findings) < _MAX_TOLD:
            self.recording.findings.append(finding)

    def _count(self, record: Record) -> None:
        recording, reader = self.recording, record.reader
        recording.outcomes.setdefault(record.fault, Counter())[record.outcome] += 1
        status = record.end if reader.status is None else str(reader.status)
        recording.statuses.setdefault(record.fault, Counter())[status] += 1
        if reader.close is not None:
            recording.closes.setdefault(record.fault, Counter())[reader.close] += 1

    def _findings(self, record: Record) -> Iterator[Finding]:
        for complaint in record.reader.complaints:
            yield self._finding(record, complaint.rule, complaint.message)
        if record.reader.complaints or self.forgiving:
            return
        if record.end == "unreachable":
            if not self.dead:
                yield self._finding(record, "unreachable", _reason_of(record))
            return
        if record.end == "held" and self._in_time(record, record.waiting) < self.bounds.answer:
            return  # the storm was over, or it was not the server that was late
        yield from self._lateness(record)
        if not self._allowed(record) and not (self.dead and record.end in ("end", "reset")):
            message = f"{record.outcome!r} (STATUS CLOSE END) is not what {record.fault} may get"
            if record.awaited is not None:
                message += f"; no {record.awaited} came"
            finding = self._finding(record, "outcome", message)
            yield attrs.evolve(finding, outcome=record.outcome)

    def _lateness(self, record: Record) -> Iterator[Finding]:
        if record.answered is None or record.asked is None or record.not_read:
            return
        seconds = record.answered - record.asked
        if self._in_time(record, record.asked, record.answered) > self.bounds.answer:
            yield self._finding(record, "late", f"answered after {seconds:.1f} s")

    def _in_time(self, record: Record, since: float, until: float | None = None) -> float:
        """Return the seconds from then on that the server could have used."""
        return (record.ended if until is None else until) - since - self.lag_since(since)

    def lag_since(self, second: float) -> float:
        """Return how many seconds since then say nothing of the server.

        In these our own clock was late, or (with the gauge ``of_process``) the machine had other
        things to run than the server. The longer of the two counts: they may be the same seconds.
        """
        ours = starved = 0.0
        after: float | None = None
        for sample in reversed(self.recording.samples):
            waited = sample.gauges.get(STARVED)
            if waited is not None:
                after = waited if after is None else after
                starved = after - waited
            if sample.second < second:
                break
            ours += sample.lag
        return max(ours, starved)

    def _allowed(self, record: Record) -> bool:
        fault = FAULTS.get(record.fault)
        if fault is None:
            return True  # a script of somebody's own: the rules for all are its rules
        seconds = record.ended - record.opened
        return any(
            allowed.covers(record.outcome, self.profile, seconds)
            for allowed in (*SHED, *fault.allowed)
        )

    def _finding(self, record: Record, rule: str, message: str) -> Finding:
        return Finding(
            rule, message, record.ended, record.fault, record.client, tell_record(record)
        )

    def compare(self, baseline: Mapping[str, float], after: Mapping[str, float]) -> list[Finding]:
        """Return what has not returned to the baseline."""
        found: list[Finding] = []
        for name, before in baseline.items():
            if name == STARVED:
                continue
            now = after.get(name, before)
            room = self.bounds.memory if name == "memory" else 0
            if now > before + room:
                unit = "MiB" if name == "memory" else name
                scale = _MIB if name == "memory" else 1
                message = f"{name}: {now / scale:.0f} {unit} after the storm, "
                message += f"{before / scale:.0f} before it"
                found.append(Finding(_LEAKS.get(name, "tasks"), message, self.recording.seconds))
        return found


def _reason_of(record: Record) -> str:
    return str(record.log[-1][2]) if record.log else "no connection"
