"""Programs: a seed is a storm, a file is the same storm, and every fault makes scripts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.storm import FAULTS, BadProgram, generate, loads
from trio_gateway.storm.draw import Draw
from trio_gateway.storm.program import FORMAT
from trio_gateway.storm.transcript import tell


@given(seed=st.integers(0, 2**64), clients=st.integers(1, 12))
def test_the_same_seed_is_the_same_storm(seed: int, clients: int) -> None:
    """Byte for byte, and through its file."""
    program = generate(seed, clients=clients)
    text = program.dumps()
    assert text == generate(seed, clients=clients).dumps()
    assert program == loads(text)
    assert text == loads(text).dumps()
    assert text.isascii()


def test_a_small_storm_is_the_beginning_of_a_large_one() -> None:
    """A client depends on the seed and its number alone."""
    assert generate(7, clients=10).scripts == generate(7, clients=50).scripts[:10]


def test_the_derivation_stays() -> None:
    """A seed of today is the same storm in every later version."""
    draw = Draw(7, 0)
    assert [30, 25, 24] == [draw.number(0, 99) for _ in range(3)]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_scripts_and_reasons(name: str) -> None:
    """It makes steps that can be told, and allows something, each with a reason."""
    fault = FAULTS[name]
    program = generate(1, clients=12, faults=[name])
    assert name in {script.fault for script in program.scripts}
    assert program == loads(program.dumps())
    assert all(line for line in tell(program))
    assert fault.allowed
    assert all(allowed.why for allowed in fault.allowed)
    assert len(fault.stands_for.split()) > 4


def test_what_needs_something_is_left_out_without_it() -> None:
    """TLS faults need a target that speaks it, restarts a command."""
    everything = generate(1, clients=2000)
    has = {"tls", "restart"}
    assert {name for name, fault in FAULTS.items() if fault.needs is None} == {
        script.fault for script in everything.scripts
    }
    assert set(FAULTS) == {script.fault for script in generate(1, clients=2000, has=has).scripts}


def _changed(**fields: object) -> str:
    return json.dumps(json.loads(generate(1, clients=1).dumps()) | fields)


def _with_step(**step: object) -> str:
    script = {"client": 0, "fault": "x", "start": 0, "polite": True, "steps": [step]}
    return _changed(clients=[script])


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "Expecting value"),
        ("[]", "a JSON object with a format number"),
        (_changed(format=FORMAT + 1), f"format {FORMAT + 1} is not known"),
        (_changed(clients=None), ""),
        (_changed(rate="fast"), ""),
        (_with_step(do="explode"), "'explode' is no step"),
        (_with_step(do="wait", seconds=-1), ""),
        (_with_step(do="wait", seconds=1e9), ""),
        (_with_step(do="send", data="\u0100"), ""),
        (_with_step(do="send", data="x" * 1000, times=10**9), "one step sends at most"),
        (_with_step(do="send", data="x", surprise=1), ""),
        (_with_step(data="x"), "'do' is missing"),
    ],
)
def test_what_is_no_storm_is_refused(text: str, why: str) -> None:
    """With a reason, and never with another exception."""
    with pytest.raises(BadProgram) as raised:
        loads(text)
    assert why in str(raised.value)
