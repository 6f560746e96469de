"""The guards, broken on purpose: among a few hundred programs one must show it.

Each mutant takes what stands in the gateway and returns what shall stand there instead.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, settings

from tests.properties.judge import check
from tests.properties.named import NAMED
from tests.properties.programs import Program, programs
from trio_gateway import Connection, Refusal, Upgrade, UpgradeState
from trio_gateway import reception as reception_module
from trio_gateway.connection.frames import Failure, FrameDecoder
from trio_gateway.handshake import upgrade as upgrade_module
from trio_gateway.handshake.admission import Place
from trio_gateway.http.responder import Exchange
from trio_gateway.reception import Reception
from trio_gateway.transport.link import Link
from trio_gateway.transport.outbox import Outbox

_Mutate = Callable[[Any], Callable[..., Any]]
_mutants: dict[str, tuple[Any, str, _Mutate]] = {}


def _mutant(where: object, name: str) -> Callable[[_Mutate], _Mutate]:
    def register(mutate: _Mutate) -> _Mutate:
        _mutants[mutate.__name__.strip("_")] = (where, name, mutate)
        return mutate

    return register


@_mutant(Upgrade, "_decide")
def _decide_again(_original: Any) -> Callable[..., Any]:
    def decide(self: Upgrade, state: UpgradeState) -> None:
        self._state = state

    return decide


@_mutant(Connection, "_failed")
def _answer_http_on_a_connection(_original: Any) -> Callable[..., Any]:
    """What ``ws`` does when a second server gets the socket."""

    def failed(self: Connection, failure: Failure) -> None:
        self._link.outbox.write(Refusal(400, "bad_request", failure.reason).render())
        self._link.finish()

    return failed


@_mutant(Outbox, "write")
def _send_the_101_twice(original: Any) -> Callable[[Any, Any], Any]:
    return lambda outbox, data: original(outbox, data * (1 + data.startswith(b"HTTP/1.1 101")))


@_mutant(Place, "close")
def _keep_a_place(_original: Any) -> Callable[[Any], Any]:
    return lambda _place: None


@_mutant(Upgrade, "refuse")
def _leave_undecided(original: Any) -> Callable[[Any, Any], Any]:
    return lambda upgrade, refusal: refusal.error != "undecided" and original(upgrade, refusal)


@_mutant(upgrade_module._Early, "take")
def _lose_early_bytes(_original: Any) -> Callable[[Any], Any]:
    return lambda _early: b""


@_mutant(FrameDecoder, "feed")
def _turn_messages_round(original: Any) -> Callable[[Any, Any], Any]:
    return lambda decoder, data: original(decoder, data)[::-1]


@_mutant(reception_module, "split")
def _let_exceptions_pass(_original: Any) -> Callable[[Any], Any]:
    return lambda error: (None, error)


@_mutant(Reception, "decided")
def _forget_who_has_left(original: Any) -> Callable[..., Any]:
    def decided(self: Reception, upgrade: Upgrade) -> None:
        original(self, upgrade)
        upgrade.scope.deadline = float("inf")

    return decided


@_mutant(Connection, "_failed")
def _expect_no_failure(_original: Any) -> Callable[..., Any]:
    def failed(self: Connection, failure: Failure) -> None:
        raise RuntimeError(failure.reason)

    return failed


@_mutant(Reception, "closed")
def _close_the_others_too(original: Any) -> Callable[..., Any]:
    def closed(self: Reception, connection: Connection) -> None:
        original(self, connection)
        for other in list(self.connections):
            other.disconnect(1011)

    return closed


@_mutant(Link, "deadline")
def _set_no_deadline(_original: Any) -> Callable[[Any, Any], Any]:
    return lambda _link, _seconds: None


@_mutant(Exchange, "begin")
def _answer_before_the_phase_begins(original: Any) -> Callable[..., Any]:
    """A response that comes at once ended a phase that began behind it."""

    def begin(self: Exchange, rest: bytes) -> None:
        if self.head.content_length or self.head.chunked:
            original(self, rest)
        else:
            self._rest = rest
            self._complete()
            self.link.enter(self)

    return begin


@_mutant(Reception, "answered")
def _take_a_place_for_nothing(original: Any) -> Callable[..., Any]:
    """The place of the next request was taken also where no request could follow."""

    def answered(self: Reception, exchange: Exchange, rest: bytes, *, keep_alive: bool) -> None:
        if not keep_alive:
            self.admission.admit_handshake()
        original(self, exchange, rest, keep_alive=keep_alive)

    return answered


@pytest.fixture(params=_mutants)
def mutant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway with one of its guards broken."""
    where, name, mutate = _mutants[request.param]
    monkeypatch.setattr(where, name, mutate(getattr(where, name)))


@pytest.mark.usefixtures("mutant")
def test_named_programs_find_a_broken_guard() -> None:
    """What keeps the guarantees cannot be taken away unseen."""
    assert any(_fails(program) for program in NAMED.values())


@pytest.mark.long
@pytest.mark.usefixtures("mutant")
def test_programs_find_a_broken_guard() -> None:
    """Nor by chance: the generator comes upon all of them."""
    find(
        programs,
        _fails,
        settings=settings(
            max_examples=10_000,
            phases=[Phase.generate],
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def _fails(program: Program) -> bool:
    try:
        check(program)
    except Exception:
        return True
    return False
