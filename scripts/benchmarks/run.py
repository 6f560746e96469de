"""The rounds: every workload on every server, one after the other, again and again.

A cell is one server under one workload. Each measurement starts the server afresh, so that no
figure depends on what was asked before, and rounds are interleaved (A B C, A B C), so that a slow
minute of the machine falls on everybody. Ratios are the medians of each round's own.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import attrs

from .certificate import make_certificate
from .job import Figures, Job
from .packages import BENCH, SCRIPTS, Missing
from .servers import SERVERS, Running, Server, ServerFailed, Service, die_with_parent
from .workloads import WORKLOADS, Workload

_LIMIT = 30.0


@attrs.frozen(kw_only=True)
class Plan:
    """What is to be measured, and for how long.

    Attributes:
        servers: those asked for.
        workloads: likewise.
        brief: whether a workload's ``brief`` counts.
        rounds: instead of each workload's own.
        seconds: of a measurement.
        warmup: seconds before it.
        quick: whether a workload's ``quick`` counts.
        install: whether to install missing peers.
    """

    servers: Sequence[Server] = SERVERS
    workloads: Sequence[Workload] = WORKLOADS
    brief: bool = True
    rounds: int | None = None
    seconds: float = 1.2
    warmup: float = 0.3
    quick: bool = False
    install: bool = True


@attrs.define
class Cell:
    """One server under one workload: figures by round, or why there are none."""

    workload: Workload
    server: Server
    figures: dict[int, Figures] = attrs.field(factory=dict)
    failure: str | None = None

    def values(self, name: str) -> dict[int, float]:
        """One of the `Figures`, by round, where there is one."""
        found = ((number, getattr(each, name)) for number, each in self.figures.items())
        return {number: value for number, value in found if value is not None}

    def median(self, name: str) -> float | None:
        """The median of the rounds."""
        values = self.values(name).values()
        return median(values) if values else None


@attrs.define
class Run:
    """A plan being carried out; ``cells`` is whole after every measurement."""

    plan: Plan
    cells: list[Cell] = attrs.field(factory=list)
    left_out: dict[str, str] = attrs.field(factory=dict)
    versions: dict[str, str] = attrs.field(factory=dict)

    def prepare(self) -> None:
        """Install what is missing; a peer that can't be had is left out, with the reason."""
        for server in self.plan.servers:
            packages = server.packages
            if packages is None:
                continue
            try:
                if not packages.installed():
                    if not self.plan.install:
                        raise Missing("not installed, and --no-install was given")
                    packages.install()
                self.versions[server.key] = packages.version()
            except Missing as reason:
                self.left_out[server.key] = str(reason)
        self.cells = [
            Cell(workload, server)
            for workload in self.plan.workloads
            for server in self.plan.servers
            if workload.service in server.services and server.key not in self.left_out
            if not self.plan.brief or workload.brief is None or server.key in workload.brief
        ]
        if any(cell.server.services[cell.workload.service].tls for cell in self.cells):
            make_certificate()

    def measure(self) -> None:
        """All rounds. A cell that fails once isn't tried again."""
        for number in range(1, max(map(self._rounds, self.cells), default=0) + 1):
            for cell in self.cells:
                if cell.failure is not None or number > self._rounds(cell):
                    continue
                try:
                    figures = self._measure(cell)
                except ServerFailed as failure:
                    cell.failure = str(failure)
                    self._say(number, cell, cell.failure)
                else:
                    cell.figures[number] = figures
                    self._say(number, cell, f"{figures.cost:.2f} {cell.workload.unit}")

    def find(self, workload: str, server: str) -> Cell | None:
        """The cell with these keys, if it was in the plan."""
        for cell in self.cells:
            if (cell.workload.key, cell.server.key) == (workload, server):
                return cell
        return None

    def _rounds(self, cell: Cell) -> int:
        return self.plan.rounds or cell.workload.rounds

    def _say(self, number: int, cell: Cell, text: str) -> None:
        place = f"round {number}/{self._rounds(cell)}  {cell.workload.key}  {cell.server.key}"
        print(f"{place}: {text}", file=sys.stderr)

    def _measure(self, cell: Cell) -> Figures:
        service = cell.server.services[cell.workload.service]
        with Running(cell.server, service) as running:
            job = self._job(cell.workload, service, running)
            try:
                figures = _load(job)
            except ServerFailed:
                running.check_alive()
                raise
            running.check_alive()
            return figures

    def _job(self, workload: Workload, service: Service, running: Running) -> Job:
        asked: dict[str, Any] = {
            "seconds": self.plan.seconds,
            "warmup": self.plan.warmup,
            "limit": _LIMIT,
        }
        asked |= workload.job
        if self.plan.quick:
            asked |= workload.quick
        return Job(
            port=running.port,
            pid=running.pid,
            tls=service.tls,
            path=service.path,
            greetings=service.greetings,
            message=service.message,
            join=service.join,
            question=service.question,
            outbox_bytes=service.outbox_bytes,
            **asked,
        )


def ratio(numerator: Cell | None, denominator: Cell | None, name: str = "cost") -> float | None:
    """The median of the quotients of the rounds that both have."""
    if numerator is None or denominator is None:
        return None
    above, below = numerator.values(name), denominator.values(name)
    quotients = [above[number] / below[number] for number in above.keys() & below if below[number]]
    return median(quotients) if quotients else None


def _load(job: Job) -> Figures:
    """Run a load client to its end; it is killed when this is interrupted."""
    process = subprocess.Popen(
        (sys.executable, "-P", "-m", "benchmarks.load", job.to_json()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=BENCH,
        env={"PYTHONPATH": str(SCRIPTS)},
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - the runner has no threads
    )
    try:
        out, errors = process.communicate(timeout=job.limit + 10)
    except subprocess.TimeoutExpired as error:
        raise ServerFailed("the load client hangs") from error
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        lines = errors.strip().splitlines()
        raise ServerFailed(lines[-1] if lines else f"load client: {process.returncode}")
    return Figures.from_json(out)


def stop_on_signals() -> None:
    """SIGTERM ends the run as Ctrl-C does, children included; a background job takes both."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
