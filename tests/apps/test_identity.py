"""Who is there, with ``--auth none``."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.apps.world import FakeUpgrade
from trio_gateway.apps.identity import Identity, anyone, guest_name
from trio_gateway.apps.session import seconds, timestamp
from trio_gateway.handshake.refusal import Refusal


@pytest.mark.parametrize("name", ["ann", "Zoë", "x" * 64, "two words", "a:b"])
async def test_a_name_is_taken_at_its_word(name: str) -> None:
    """``?user=NAME``, 1 to 64 printable characters."""
    assert await anyone(FakeUpgrade("c", {"user": name})) == Identity(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\tb", "\u202e", " "])
async def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    """A 400 that names the parameter."""
    refusal = await anyone(FakeUpgrade("c", {"user": name}))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (400, "invalid_field")
    assert refusal.message.startswith("the query parameter user ")


async def test_without_a_name_one_is_a_guest() -> None:
    """``guest-`` and six letters or digits."""
    identity = await anyone(FakeUpgrade("c", {}))
    assert isinstance(identity, Identity)
    assert re.fullmatch(r"guest-[a-z0-9]{6}", identity.user)


def test_guests_differ() -> None:
    """A hundred of two thousand million names are a hundred names."""
    assert len({guest_name() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "clock, expected",
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_790_000_000.125, "2026-09-21T14:13:20.125Z"),
        (1_790_000_000.9999, "2026-09-21T14:13:20.999Z"),
    ],
)
def test_times_are_rfc_3339_with_milliseconds(clock: float, expected: str) -> None:
    """Always UTC, always three digits."""
    assert expected == timestamp(clock)


@given(st.floats(0, 4e9))
def test_every_time_has_one_form(clock: float) -> None:
    """So that texts sort as times do."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp(clock))


def test_a_heartbeat_can_be_said_in_json() -> None:
    """Whole seconds as integers, none as 0."""
    assert [seconds(25.0), seconds(0.5), seconds(math.inf)] == [25, 0.5, 0]
