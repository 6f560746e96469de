"""An upgrade can be spent once: a state machine holds ``Upgrade`` to a model of four states."""

from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import HypothesisException
from hypothesis.stateful import run_state_machine_as_test

from tests.properties.upgrade_machine import UpgradeMachine
from tests.properties.upgrade_model import ACCEPTED, PENDING, REJECTED
from trio_gateway import Connection, Refusal, Upgrade, UpgradeState
from trio_gateway.handshake import upgrade as upgrade_module


def test_an_upgrade_is_spent_once() -> None:
    """No order of decisions, disturbances and cancellations leads out of the model."""
    _run_machine(settings(max_examples=3 * settings().max_examples, stateful_step_count=20))


def _run_machine(how: settings) -> None:
    run_state_machine_as_test(UpgradeMachine, settings=how)


# The guards, broken on purpose: the machine must notice.


def _decide_again(self: Upgrade, state: UpgradeState) -> None:
    self._state = state


def _refuse_again(self: Upgrade, refusal: Refusal) -> bool:
    self._state = REJECTED
    self._answer(refusal.render())
    return True


def _keep_pending(self: Upgrade) -> None:
    pass


async def _decide_too_soon(self: Upgrade, **response: Any) -> Connection:
    self._decide(ACCEPTED)
    await trio.lowlevel.checkpoint()
    self._state = PENDING
    return await _accept(self, **response)


async def _write_early(self: Upgrade, status: int, **response: Any) -> None:
    self.link.outbox.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
    await _reject(self, status, **response)


def _take_nothing(self: Any) -> bytes:
    return b""


def _take_backwards(self: Any) -> bytes:
    return b"".join(reversed(self._chunks))


def _take_any_header(headers: list[tuple[bytes, bytes]] | None, _forbidden: object) -> Any:
    return headers or []


_accept, _reject = Upgrade.accept, Upgrade.reject
_MUTANTS = [
    (Upgrade, "_decide", _decide_again),
    (Upgrade, "refuse", _refuse_again),
    (Upgrade, "abandon", _keep_pending),
    (Upgrade, "accept", _decide_too_soon),
    (Upgrade, "reject", _write_early),
    (upgrade_module._Early, "take", _take_nothing),
    (upgrade_module._Early, "take", _take_backwards),
    (upgrade_module, "_headers", _take_any_header),
]


@pytest.mark.parametrize(
    "where, name, mutant", _MUTANTS, ids=[mutant.__name__ for _, _, mutant in _MUTANTS]
)
def test_the_machine_finds_a_broken_guard(
    where: object, name: str, mutant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps an upgrade to one decision cannot be taken away unseen."""
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(Exception) as caught:  # whatever the machine says
        _run_machine(
            settings(
                max_examples=1_000,
                stateful_step_count=20,
                phases=[Phase.generate],
                database=None,
                derandomize=True,
                report_multiple_bugs=False,
                suppress_health_check=[HealthCheck.too_slow],
            )
        )
    assert not isinstance(caught.value, HypothesisException)
