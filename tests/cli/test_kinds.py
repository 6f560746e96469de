"""Values of settings, from text and from TOML."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.cli.flags import SETTINGS
from trio_gateway.cli.kinds import BadValue, Choice, Kind, Seconds, Several, Switch, Text, Whole

KINDS: list[Kind[Any]] = [setting.kind for setting in SETTINGS]


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (Whole("N"), "7", 7),
        (Whole("N", least=0, most=65535), "065535", 65535),
        (Seconds(), "0.5", 0.5),
        (Seconds(), ".5", 0.5),
        (Seconds(), "30", 30.0),
        (Seconds(zero="which is none"), "0", 0.0),
        (Text("T", "a text"), "x y", "x y"),
        (Choice(("a", "b")), "b", "b"),
        (Switch(), "Yes", True),
        (Switch(), "0", False),
        (Several(Text("T", "a text")), "a b,c,  d", ("a", "b", "c", "d")),
    ],
)
def test_text_is_read(kind: Kind[Any], text: str, value: object) -> None:
    """A flag or a variable becomes a value of its kind."""
    assert value == kind.read(text)


@pytest.mark.parametrize(
    "kind, value, error",
    [
        (Whole("N"), "0", "a whole number from 1, not 0"),
        (Whole("N"), "1_000", "a whole number from 1, not '1_000'"),
        (Whole("N"), "٣", "a whole number from 1, not '٣'"),
        (Whole("N", least=0, most=65535), "65536", "a whole number from 0 to 65535, not 65536"),
        (Whole("N"), "9" * 200, f"a whole number from 1, not '{'9' * 37}...{'9' * 38}'"),
        (Seconds(), "0", "a number of seconds, more than 0, not 0.0"),
        (Seconds(), "nan", "a number of seconds, more than 0, not 'nan'"),
        (Seconds(), "inf", "a number of seconds, more than 0, not 'inf'"),
        (Seconds(), "1e400", "a number of seconds, more than 0, not '1e400'"),
        (Seconds(zero="for none"), "-1", "a number of seconds, from 0, for none, not '-1'"),
        (Text("T", "a text"), "", "a text, not ''"),
        (Choice(("a", "b")), "c", "a or b, not 'c'"),
        (Switch(), "2", "true or false, not '2'"),
    ],
)
def test_bad_text_is_explained(kind: Kind[Any], value: str, error: str) -> None:
    """The error says what was expected and what was found, in bounded length."""
    with pytest.raises(BadValue) as caught:
        kind.read(value)
    assert f"must be {error}" == str(caught.value)


@pytest.mark.parametrize(
    "kind, value",
    [
        (Whole("N"), "7"),
        (Whole("N"), 7.0),
        (Whole("N"), True),
        (Whole("N"), -1),
        (Seconds(), True),
        (Seconds(), "7"),
        (Seconds(), float("nan")),
        (Seconds(), float("inf")),
        (Text("T", "a text"), 7),
        (Choice(("a", "b")), 7),
        (Switch(), "true"),
        (Switch(), 1),
        (Several(Text("T", "a text")), "a"),
        (Several(Text("T", "a text")), ["a", 1]),
    ],
)
def test_toml_has_types(kind: Kind[Any], value: object) -> None:
    """A value of another type is wrong, even if its text would do."""
    with pytest.raises(BadValue, match="must be "):
        kind.take(value)


@given(st.sampled_from(KINDS), st.text(st.characters(exclude_categories=())))
def test_any_text_is_a_value_or_bad(kind: Kind[Any], text: str) -> None:
    """Whatever is typed or set is read or is a BadValue on one line."""
    try:
        kind.read(text)
    except BadValue as error:
        message = str(error)
    else:
        message = ""
    assert len(message.splitlines()) <= 1
    assert len(message) < 250
