"""The design's goals, as data, and what a run says of them.

A goal bounds one figure of ours, or its ratio to another figure of the same run. Ratios between two
workloads of one server stand here too (`WITHIN`): the table shows them for every server.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import attrs

from .run import Run, quotients
from .workloads import fanout_key

FANOUT_1, FANOUT_16 = fanout_key(1, 1000, 128), fanout_key(16, 1000, 128)
_ONE_TO_8000, _SIXTEEN_TO_8000 = fanout_key(1, 8000, 128), fanout_key(16, 8000, 128)
_CHAT, _HANDLER = "gateway-chat", "gateway"


@attrs.frozen
class Measure:
    """A figure of one server under one workload."""

    workload: str
    server: str
    figure: str = "cost"


@attrs.frozen
class Goal:
    """At most ``limit``, or at least.

    Attributes:
        title: what is measured.
        beside: what it is compared with, or nothing.
        limit: in ``unit``.
        unit: ``×`` of a ratio; ``%`` for what a ratio is less than 1.
        of: our figure.
        to: what it is divided by; None for the figure as it is.
        least: whether the limit is the least.
    """

    title: str
    beside: str
    limit: float
    unit: str
    of: Measure
    to: Measure | None = None
    least: bool = False

    @property
    def bound(self) -> str:
        """The limit, for people."""
        return f"{'≥' if self.least else '≤'} {self.limit:g} {self.unit}"


@attrs.frozen
class Judged:
    """A goal, what each round measured of it in its unit, and ``ok``, ``missed`` or why not."""

    goal: Goal
    values: Sequence[float]
    verdict: str

    @property
    def measured(self) -> float | None:
        """The median of the rounds."""
        return median(self.values) if self.values else None


@attrs.frozen
class Within:
    """The cost of one workload as a multiple of another's, on the same server."""

    title: str
    of: str
    to: str


GROWTH_1 = Within("8,000 connections ÷ 1,000, 1 in flight", _ONE_TO_8000, FANOUT_1)
GROWTH_16 = Within("8,000 connections ÷ 1,000, 16 in flight", _SIXTEEN_TO_8000, FANOUT_16)
ROOMS = Within("100 rooms, one each ÷ one room for all", "rooms", FANOUT_1)
TOPICS = Within("100 rooms, ten each ÷ one room for all", "topics", FANOUT_1)
REFUSALS = tuple(
    Within(f"refusal {status} ÷ upgrade", f"refuse-{status}", "handshake")
    for status in (400, 403, 404, 429, 503)
)
WITHIN = (GROWTH_1, GROWTH_16, ROOMS, TOPICS, *REFUSALS)


def _beside(title: str, workload: str, ours: str, limits: dict[str, float]) -> Iterator[Goal]:
    of = Measure(workload, ours)
    for peer, limit in limits.items():
        yield Goal(title, peer, limit, "×", of, Measure(workload, peer))


def _within(limit: float, *rows: Within) -> Iterator[Goal]:
    for row in rows:
        title, _, beside = row.title.partition(" ÷ ")
        yield Goal(title, beside, limit, "×", Measure(row.of, _CHAT), Measure(row.to, _CHAT))


def _workers(in_flight: int) -> Goal:
    key = f"workers-{in_flight}"
    title = f"deliveries/s of two workers, {in_flight} in flight"
    one, two = Measure(key, "gateway-redis"), Measure(key, "gateway-workers")
    return Goal(title, "one worker", 1.7, "×", one, two, least=True)


def _broker(in_flight: int) -> Goal:
    key = f"broker-{in_flight}"
    title = f"CPU that Redis adds, to 1,000, {in_flight} in flight"
    memory, redis = Measure(key, _CHAT), Measure(key, "gateway-redis")
    return Goal(title, "all with it", 10, "%", memory, redis)


_IDLE = Measure("idle-3000", _CHAT)

GOALS = (
    *_beside("fan-out, 1 in flight", FANOUT_1, _CHAT, {"bare": 1.15, "uwebsockets": 1.0}),
    *_beside("fan-out, 16 in flight", FANOUT_16, _CHAT, {"uwebsockets": 1.2}),
    *_within(1.1, GROWTH_1, GROWTH_16),
    *_within(1.5, ROOMS, TOPICS),
    *_beside("echo", "echo", _HANDLER, {"websockets": 0.6, "trio-websocket": 0.3, "ws": 1.1}),
    *_beside("handshake", "handshake", _HANDLER, {"websockets": 0.6, "trio-websocket": 0.45}),
    *_within(0.5, *REFUSALS),
    Goal("half-open handshake, 10,000 held", "", 4, "KiB", Measure("half-open", _CHAT)),
    Goal("idle connection in a room, 3,000 held", "", 8, "KiB", _IDLE),
    Goal("the same, the stretch", "", 6, "KiB", _IDLE),
    Goal("p99 of a bystander beside 8,000", "", 15, "ms", Measure("bystander", _CHAT)),
    Goal("p99 beside 5 % that never read", "without them", 1.2, "×", Measure("slow", _CHAT)),
    Goal("memory these take", "their outboxes", 1, "×", Measure("slow", _CHAT, "memory_share")),
    _workers(1),
    _workers(4),
    _workers(16),
    _broker(1),
    _broker(16),
)


def judged(run: Run) -> Iterable[Judged]:
    """Every goal with what was measured of it."""
    for goal in GOALS:
        values = _values(run, goal)
        if not values:
            yield Judged(goal, values, "not measured")
        else:
            value = median(values)
            met = value >= goal.limit if goal.least else value <= goal.limit
            yield Judged(goal, values, "ok" if met else "missed")


def _values(run: Run, goal: Goal) -> Sequence[float]:
    """What each round says, in the goal's unit."""
    ours = run.find(goal.of.workload, goal.of.server)
    if ours is None:
        return []
    if goal.to is None:
        return list(ours.values(goal.of.figure).values())
    found = quotients(ours, run.find(goal.to.workload, goal.to.server), goal.of.figure)
    return [100 * (1 - each) for each in found] if goal.unit == "%" else found
