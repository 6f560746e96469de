"""The rounds: every workload on every server, one after the other, again and again.

A cell is one server under one workload. Each measurement starts the server afresh, so that no
figure depends on what was asked before, and rounds are interleaved (A B C, A B C), so that a slow
minute of the machine falls on everybody. Ratios are the medians of each round's own. The cells of a
workload whose servers take turns are measured together.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import attrs

from .certificate import make_certificate
from .children import ServerFailed, die_with_parent
from .job import QUIET, Figures, Job
from .packages import BENCH, SCRIPTS, Missing
from .servers import SERVERS, Running, Server, Service
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
        """One of the `Figures`, by round, where there is one.

        Of the rounds that others disturbed only where there is no other round.
        """
        quiet = {number: each for number, each in self.figures.items() if not _disturbed(each)}
        found = ((number, getattr(each, name)) for number, each in (quiet or self.figures).items())
        return {number: value for number, value in found if value is not None}

    @property
    def disturbed(self) -> int:
        """How many rounds were."""
        return sum(map(_disturbed, self.figures.values()))

    def median(self, name: str) -> float | None:
        """The median of the rounds."""
        values = self.values(name).values()
        return median(values) if values else None


def _disturbed(figures: Figures) -> bool:
    return figures.others is not None and figures.others >= QUIET


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
            if packages is None or not any(
                self._wanted(workload, server) for workload in self.plan.workloads
            ):
                continue
            try:
                if not packages.installed():
                    if not self.plan.install:
                        raise Missing(f"no {packages.needs} here, and --no-install was given")
                    packages.install()
                self.versions[server.key] = packages.version()
            except Missing as reason:
                self.left_out[server.key] = str(reason)
        self.cells = [
            Cell(workload, server)
            for workload in self.plan.workloads
            for server in self.plan.servers
            if server.key not in self.left_out and self._wanted(workload, server)
        ]
        if any(cell.server.services[cell.workload.service].tls for cell in self.cells):
            make_certificate()

    def _wanted(self, workload: Workload, server: Server) -> bool:
        brief = workload.brief if self.plan.brief else None
        return workload.service in server.services and (brief is None or server.key in brief)

    def measure(self) -> None:
        """All rounds. A cell that fails once isn't tried again."""
        for number in range(1, max(map(self._rounds, self.cells), default=0) + 1):
            for cells in self._groups():
                if cells[0].failure is not None or number > self._rounds(cells[0]):
                    continue
                try:
                    measured = self._measure(cells)
                except ServerFailed as failure:
                    for cell in cells:
                        cell.failure = str(failure)
                        self._say(number, cell, cell.failure)
                else:
                    for cell, figures in zip(cells, measured, strict=True):
                        cell.figures[number] = figures
                        self._say(number, cell, f"{figures.cost:.2f} {cell.workload.unit}")

    def _groups(self) -> list[list[Cell]]:
        """The cells that are measured together; most are alone."""
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            alone = "" if cell.workload.together else cell.server.key
            groups.setdefault((cell.workload.key, alone), []).append(cell)
        return list(groups.values())

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

    def _measure(self, cells: Sequence[Cell]) -> list[Figures]:
        started: list[Running] = []
        jobs: list[Job] = []
        with ExitStack() as stack:
            for cell in cells:
                service = cell.server.services[cell.workload.service]
                running = stack.enter_context(Running(cell.server, service))
                started.append(running)
                jobs.append(self._job(cell.workload, service, running))
            try:
                figures = _load(jobs)
            except ServerFailed:
                for running in started:
                    running.check_alive()
                raise
            for running in started:
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
            store_pid=running.store_pid,
            workers=service.workers,
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
    found = quotients(numerator, denominator, name)
    return median(found) if found else None


def quotients(
    numerator: Cell | None, denominator: Cell | None, name: str = "cost"
) -> Sequence[float]:
    """One for each round that both have."""
    if numerator is None or denominator is None:
        return []
    above, below = numerator.values(name), denominator.values(name)
    return [above[number] / below[number] for number in above.keys() & below if below[number]]


def _load(jobs: Sequence[Job]) -> list[Figures]:
    """Run a load client to its end; it is killed when this is interrupted."""
    limit = sum(job.limit for job in jobs)
    process = subprocess.Popen(
        (sys.executable, "-P", "-m", "benchmarks.load", *(job.to_json() for job in jobs)),
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
        out, errors = process.communicate(timeout=limit + 10)
    except subprocess.TimeoutExpired as error:
        raise ServerFailed("the load client hangs") from error
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        lines = errors.strip().splitlines()
        raise ServerFailed(lines[-1] if lines else f"load client: {process.returncode}")
    return [Figures.from_json(line) for line in out.splitlines()]


def stop_on_signals() -> None:
    """SIGTERM ends the run as Ctrl-C does, children included; a background job takes both."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
