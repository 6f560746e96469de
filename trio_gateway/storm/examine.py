"""A finding, made small: storms run again and again until the shortest that still fails is known.

In: a program that broke a rule. Out: a ``Shrunk``, and two files: one to replay, one to read. The
rule: every try begins with a server that is well; without a way to restart one that died, or that
may have kept something, what is left of the budget is given up.
"""

from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from trio_gateway.storm.faults import Profile
from trio_gateway.storm.gauges import Gauge
from trio_gateway.storm.oracle import Bounds
from trio_gateway.storm.probe import NoUpgrade, Survey, accept_once, survey
from trio_gateway.storm.program import Program
from trio_gateway.storm.record import Finding, Recording
from trio_gateway.storm.run import run_storm
from trio_gateway.storm.server import DoesNotStart, Restartable
from trio_gateway.storm.shrink import Shrunk, shrink
from trio_gateway.storm.target import Target
from trio_gateway.storm.transcript import size_of, tell
from trio_gateway.storm.transport import Network, Unreachable

# What a server may carry over from one storm to the next.
_LASTING = frozenset(
    {"dead", "deaf", "not-accepting", "control-lost", "descriptors", "memory", "tasks", "late"}
)
# What shows as soon as it happens, where others show by something that does not.
_PROMPT = frozenset(
    {"second-101", "http-after-101", "bad-frame", "frame-after-close", "malformed-answer", "dead"}
)
_PROMPTLY = 1.5
_ALIVE = 2.0


class ServerGone(Exception):
    """The server is not well, and nobody can restart it."""


@attrs.frozen(kw_only=True)
class Examiner:
    """Where and how storms are run again.

    Attributes:
        target: the server.
        network: the way there.
        server: restarts it; None where nobody can.
        bounds: of the storm that failed.
        gauges: what tells of its resources.
        profile: what it promises; None to find out.
    """

    target: Target
    network: Network
    server: Restartable | None = None
    bounds: Bounds = attrs.Factory(Bounds)
    gauges: Sequence[Gauge] = ()
    profile: Profile | None = None

    async def shrink(
        self,
        program: Program,
        recording: Recording,
        finding: Finding,
        *,
        max_tries: int = 150,
        seconds: float = 300.0,
    ) -> Shrunk:
        """Return the smallest storm that fails again as ``finding`` says.

        Arguments:
            program: the storm.
            recording: of the run that found it.
            finding: one of its findings.
            max_tries: storms to run at most.
            seconds: the same in time; what was reached by then is returned.
        """
        bounds = attrs.evolve(
            self.bounds, settle=min(2.0, self.bounds.settle), probe=0.05, controls=1
        )
        if finding.rule in _PROMPT:
            bounds = attrs.evolve(bounds, patience=min(_PROMPTLY, bounds.patience))
        deadline = trio.current_time() + seconds
        who: Survey | None = None
        seen: dict[Program, Finding] = {}

        async def fails(smaller: Program) -> bool:
            nonlocal who
            if trio.current_time() > deadline:
                return False
            try:
                await self._make_well(finding.rule)
                who = who or await survey(self.network, self.target)
                again = await run_storm(
                    self.target,
                    smaller,
                    network=self.network,
                    bounds=bounds,
                    profile=self.profile,
                    gauges=self.gauges,
                    server=self.server,
                    known=who,
                    until=finding.is_like,
                )
            except (Unreachable, NoUpgrade, ServerGone, DoesNotStart, trio.TooSlowError):
                return False
            for each in again.findings:
                if each.is_like(finding):
                    seen[smaller] = each
                    return True
            return False

        suspects = recording.suspects.get(finding.rule, ())
        shrunk = await shrink(program, fails, suspects=suspects, max_tries=max_tries)
        return attrs.evolve(shrunk, finding=seen.get(shrunk.program))

    async def _make_well(self, rule: str) -> None:
        if self.server is not None and rule in _LASTING:
            await self.server.restart()
            return
        try:
            await accept_once(self.network, self.target, _ALIVE)
        except (Unreachable, NoUpgrade, trio.TooSlowError):
            if self.server is None:
                raise ServerGone from None
            await self.server.restart()


def save(folder: Path, program: Program, shrunk: Shrunk, finding: Finding) -> tuple[Path, Path]:
    """Write the storm to replay and its transcript to read; return their paths.

    Arguments:
        folder: where to.
        program: as it was run.
        shrunk: what came of it.
        finding: what it breaks.
    """
    name = f"storm-{program.seed}-{finding.rule}"
    replay, words = folder / f"{name}.json", folder / f"{name}.txt"
    replay.write_text(shrunk.program.dumps(), encoding="ascii")
    small = shrunk.program
    size = size_of(program)
    if shrunk.reproduced:
        size += f"; made {size_of(small)}, in {shrunk.tries} tries"
    else:
        size += "; as it was run"
    finding = shrunk.finding or finding
    lines = [str(finding), size, "", *tell(small), "", "what was seen:", *finding.transcript]
    words.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return replay, words
