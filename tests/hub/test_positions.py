"""Positions as text and as JSON."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.hub.positions import Position

positions = st.builds(
    Position,
    st.text("abcXYZ019_-", min_size=1, max_size=64),
    st.integers(min_value=0, max_value=10**18 - 1),
)


@given(positions)
def test_text_round_trip(position: Position) -> None:
    """A position reads back from its text."""
    assert position == Position.parse(str(position))


@given(positions)
def test_json_round_trip(position: Position) -> None:
    """A position is an object with epoch and offset in JSON, both ways, by msgspec alone."""
    encoded = msgspec.json.encode(position)
    assert {"epoch": position.epoch, "offset": position.offset} == msgspec.json.decode(encoded)
    assert position == msgspec.json.decode(encoded, type=Position)


@pytest.mark.parametrize(
    "text",
    ["", ":", "e", "e:", ":1", "e:-1", "e:1 ", "e:+1", "é:1", "e:١", "e:1:2", "e:" + "9" * 19],
)
def test_bad_text(text: str) -> None:
    """What is not EPOCH:OFFSET is refused with a sentence for the client."""
    with pytest.raises(ValueError, match="EPOCH:OFFSET"):
        Position.parse(text)
