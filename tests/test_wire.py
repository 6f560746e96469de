"""The rules of single fields."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.wire import (
    InvalidField,
    Problem,
    check_key,
    check_name,
    check_text,
    decode,
    encode_data,
    reply,
)


@pytest.mark.parametrize(
    "name",
    ["a", "x" * 128, "two words", "Zoë", "部屋", "a:b", "می\u200cخواهم", "👩\u200d🚀", "../etc"],
)
def test_names_that_can_be_seen_are_names(name: str) -> None:
    """Anything printable is a name, joiners included."""
    check_name("room", name)


@pytest.mark.parametrize(
    "name, rule",
    [
        ("", "room must have 1 to 128 characters"),
        ("x" * 129, "room must have 1 to 128 characters"),
        ("a\nb", "room may have printable characters only"),
        ("a\x00", "room may have printable characters only"),
        ("\u202eabc", "room may have printable characters only"),
        ("a\ud800", "room may have printable characters only"),
        ("   ", "room may not be blank"),
        ("\u200d\u200c", "room may not be blank"),
    ],
)
def test_names_that_cannot_be_seen_are_refused(name: str, rule: str) -> None:
    """The sentence names the field and the rule."""
    with pytest.raises(InvalidField) as caught:
        check_name("room", name)
    assert rule == str(caught.value)
    assert caught.value.field == "room"


def test_text_is_measured_in_bytes_of_utf_8() -> None:
    """Four bytes of one character are four, not one."""
    check_text("text", "abcd", 4)
    check_text("text", "😀", 4)
    with pytest.raises(InvalidField, match="at most 4 bytes"):
        check_text("text", "😀!", 4)
    with pytest.raises(InvalidField, match="at most 4 bytes"):
        check_text("text", "abcde", 4)


def test_text_may_not_be_empty_unless_it_may() -> None:
    """A message has something in it; the body of a notification need not."""
    with pytest.raises(InvalidField, match="text may not be empty"):
        check_text("text", "", 4)
    check_text("body", "", 4, may_be_empty=True)


def test_half_a_surrogate_pair_is_no_text() -> None:
    """Python can hold what UTF-8 can't; a caller of the library is told so."""
    with pytest.raises(InvalidField, match="half of a surrogate pair"):
        check_text("text", "a\udcff", 100)


@pytest.mark.parametrize("key", ["", "k" * 129, "\ud800"])
def test_keys_have_1_to_128_characters(key: str) -> None:
    """An empty key would make all keyless messages one."""
    with pytest.raises(InvalidField, match="key"):
        check_key(key)


def test_an_absent_key_is_fine() -> None:
    """Nobody has to make retries safe."""
    check_key(None)
    check_key("k" * 128)


def test_data_is_bounded_and_json() -> None:
    """What cannot be sent is refused before anything is stored."""
    assert encode_data({"a": [1, None]}, 100) == b'{"a":[1,null]}'
    with pytest.raises(InvalidField, match="data may have at most 10 bytes"):
        encode_data({"a": "x" * 10}, 10)
    with pytest.raises(InvalidField, match="data must be an object"):
        encode_data({"a": object()}, 100)
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(InvalidField, match="data must be an object"):
        encode_data(deep, 10**9)
    while deep:  # taken apart by hand: freeing it in one go would recurse too
        deep = deep["a"]  # type: ignore[assignment]  # built as nested dicts above


def test_a_reply_carries_the_id_only_where_there_is_one() -> None:
    """Replies to commands without an id have no id field at all."""
    assert reply("left", None, room="a") == b'{"type":"left","room":"a"}'
    assert reply("left", 7, room="a") == b'{"type":"left","id":7,"room":"a"}'


def test_a_problem_is_an_error_frame() -> None:
    """Code and sentence always; id and field where there are any."""
    assert Problem("c", "m").encode() == b'{"type":"error","code":"c","message":"m"}'
    expected = b'{"type":"error","id":"i","code":"c","message":"m","field":"f"}'
    assert expected == Problem("c", "m", "f", "i").encode()


class _Anything(msgspec.Struct):
    room: str
    limit: int


@given(st.binary() | st.text(st.characters(codec=None, exclude_categories=())))
def test_decoding_never_raises(source: bytes | str) -> None:
    """Whatever comes in, a value or a problem comes out."""
    decode(msgspec.json.Decoder(_Anything), source)
