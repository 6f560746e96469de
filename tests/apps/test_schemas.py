"""Commands: what is understood, and what is said about the rest."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_gateway.apps.schemas import (
    At,
    Command,
    History,
    Join,
    Leave,
    List,
    Members,
    Message,
    Ping,
    Read,
    Subscribe,
    Typing,
    Unsubscribe,
    decode_chat,
    decode_notification,
    parse_position,
    position_of,
)
from trio_gateway.hub.positions import Position
from trio_gateway.wire import InvalidField, Problem, TextLimits

LIMITS = TextLimits(max_text_bytes=100)
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"type":"join","room":"a"}', Join(room="a")),
        (
            '{"type":"join","id":1,"room":"a","since":{"epoch":"e","offset":3},"presence":true}',
            Join(id=1, room="a", since=At("e", 3), presence=True),
        ),
        ('{"type":"join","room":"a","since":null,"presence":null}', Join(room="a")),
        ('{"type":"leave","room":"a"}', Leave(room="a")),
        ('{"type":"message","text":"hi"}', Message(text="hi")),
        (
            '{"type":"message","id":"x","room":"a","text":"hi","key":"k"}',
            Message(id="x", room="a", text="hi", key="k"),
        ),
        ('{"type":"history","room":"a"}', History(room="a")),
        (
            '{"type":"history","room":"a","before":9,"limit":5}',
            History(room="a", before=9, limit=5),
        ),
        ('{"type":"members","room":"a"}', Members(room="a")),
        ('{"type":"typing","room":"a"}', Typing(room="a")),
        ('{"type":"ping","id":"alive"}', Ping(id="alive")),
        (' \t\r\n{"type":"typing","room":"a"}\n', Typing(room="a")),
    ],
)
def test_every_chat_command_is_understood(text: str, expected: Command) -> None:
    """Each row of the wire page, with and without its optional fields."""
    assert expected == decode_chat(text, LIMITS)


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"type":"read","offset":4}', Read(offset=4)),
        ('{"type":"list"}', List()),
        ('{"type":"ping"}', Ping()),
        ('{"type":"list","id":2.5,"before":9,"limit":5}', List(id=2.5, before=9, limit=5)),
        ('{"type":"subscribe","topic":"news"}', Subscribe(topic="news")),
        (
            '{"type":"subscribe","topic":"news","since":{"epoch":"e","offset":0}}',
            Subscribe(topic="news", since=At("e", 0)),
        ),
        ('{"type":"unsubscribe","topic":"news"}', Unsubscribe(topic="news")),
    ],
)
def test_every_notification_command_is_understood(text: str, expected: Command) -> None:
    """Each row of the wire page, with and without its optional fields."""
    assert expected == decode_notification(text, LIMITS)


def test_unknown_fields_are_ignored() -> None:
    """A newer client may say more than this server knows."""
    text = '{"type":"leave","room":"a","colour":{"deep":[1]},"offset":"x"}'
    assert Leave(room="a") == decode_chat(text, LIMITS)


@pytest.mark.parametrize(
    "text", ["hello", "[1,2]", '"x"', "42", "null", " hi {", "\ufeff{}", "true"]
)
def test_what_is_no_json_object_is_itself_a_message(text: str) -> None:
    """wscat is a usable client: what is typed is said, to the letter."""
    assert Message(text=text) == decode_chat(text, LIMITS)


@pytest.mark.parametrize(
    "text, code, field, id",
    [
        ("", "invalid_field", "text", None),
        ("x" * 101, "invalid_field", "text", None),
        ("{", "bad_json", None, None),
        ('{"type":"leave","room":"a"} x', "bad_json", None, None),
        ('{"type":"message","text":"\\ud800","id":1}', "bad_json", None, None),
        ('{"type":"message","text":NaN}', "bad_json", None, None),
        ('{"type":"message","text":"a\nb"}', "bad_json", None, None),
        ('{"type":"leave","room":"a","x":' + DEEP + "}", "bad_json", None, None),
        ("{}", "unknown_type", "type", None),
        ('{"id":1,"text":"hi"}', "unknown_type", "type", 1),
        ('{"id":"q","type":"dance"}', "unknown_type", "type", "q"),
        ('{"id":"q","type":7}', "unknown_type", "type", "q"),
        ('{"id":1,"type":"join"}', "invalid_field", "room", 1),
        ('{"id":1,"type":"join","room":7}', "invalid_field", "room", 1),
        ('{"id":1,"type":"join","room":""}', "invalid_field", "room", 1),
        ('{"id":1,"type":"join","room":"a\\u0000"}', "invalid_field", "room", 1),
        ('{"id":1,"type":"join","room":"a","presence":"yes"}', "invalid_field", "presence", 1),
        ('{"id":1,"type":"join","room":"a","since":"e:1"}', "invalid_field", "since", 1),
        ('{"id":1,"type":"join","room":"a","since":{"epoch":"e"}}', "invalid_field", "since", 1),
        (
            '{"id":1,"type":"join","room":"a","since":{"epoch":"e","offset":-1}}',
            "invalid_field",
            "since",
            1,
        ),
        (
            '{"id":1,"type":"join","room":"a","since":{"epoch":"é é","offset":1}}',
            "invalid_field",
            "since",
            1,
        ),
        ('{"id":1,"type":"message"}', "invalid_field", "text", 1),
        ('{"id":1,"type":"message","text":""}', "invalid_field", "text", 1),
        ('{"id":1,"type":"message","text":"' + "x" * 101 + '"}', "invalid_field", "text", 1),
        ('{"id":1,"type":"message","text":"a","room":"\\n"}', "invalid_field", "room", 1),
        ('{"id":1,"type":"message","text":"a","key":""}', "invalid_field", "key", 1),
        ('{"id":1,"type":"message","text":"a","key":5}', "invalid_field", "key", 1),
        ('{"id":1,"type":"history","room":"a","before":-1}', "invalid_field", "before", 1),
        ('{"id":1,"type":"history","room":"a","limit":0}', "invalid_field", "limit", 1),
        ('{"id":1,"type":"history","room":"a","limit":1e999}', "invalid_field", "limit", 1),
        ('{"id":[1],"type":"leave","room":"a"}', "invalid_field", "id", None),
        ('{"id":true,"type":"leave","room":"a"}', "invalid_field", "id", None),
        ('{"id":"' + "i" * 257 + '","type":"leave","room":"a"}', "invalid_field", "id", None),
        ('{"id":"' + "i" * 257 + '","type":"dance"}', "unknown_type", "type", None),
    ],
)
def test_malformed_chat_commands_are_explained(
    text: str, code: str, field: str | None, id: object
) -> None:
    """The code is stable, the sentence begins with the field, the id comes back if it can."""
    problem = decode_chat(text, LIMITS)
    assert isinstance(problem, Problem)
    assert (code, field, id) == (problem.code, problem.field, problem.id)
    assert field is None or problem.message.startswith(field)


@pytest.mark.parametrize(
    "text, code, field, id",
    [
        ("hello", "bad_json", None, None),
        ("", "bad_json", None, None),
        ("[1]", "not_an_object", None, None),
        ('"x"', "not_an_object", None, None),
        ('{"id":1,"type":"message","text":"hi"}', "unknown_type", "type", 1),
        ('{"id":1,"type":"read"}', "invalid_field", "offset", 1),
        ('{"id":1,"type":"read","offset":"4"}', "invalid_field", "offset", 1),
        ('{"id":1,"type":"read","offset":-1}', "invalid_field", "offset", 1),
        ('{"id":1,"type":"read","offset":9007199254740992}', "invalid_field", "offset", 1),
        ('{"id":1,"type":"subscribe"}', "invalid_field", "topic", 1),
        ('{"id":1,"type":"subscribe","topic":" "}', "invalid_field", "topic", 1),
        ('{"id":1,"type":"unsubscribe","topic":null}', "invalid_field", "topic", 1),
    ],
)
def test_malformed_notification_commands_are_explained(
    text: str, code: str, field: str | None, id: object
) -> None:
    """As in the chat; but a text that is no object means nothing here."""
    problem = decode_notification(text, LIMITS)
    assert isinstance(problem, Problem)
    assert (code, field, id) == (problem.code, problem.field, problem.id)
    assert field is None or problem.message.startswith(field)


def test_of_a_repeated_field_the_last_one_counts() -> None:
    """Duplicate keys are one value, the same for every field (RFC 8259 §4 leaves it open)."""
    text = '{"type":"message","text":"a","text":"b"}'
    assert Message(text="b") == decode_chat(text, LIMITS)


def test_an_id_comes_back_as_it_was() -> None:
    """Strings, integers of any size and fractions are all ids."""
    for id in ("", "x", 0, -3, 2.5, 12345678901234567890123):
        command = decode_chat(json.dumps({"type": "leave", "room": "a", "id": id}), LIMITS)
        assert Leave(room="a", id=id) == command


def test_positions_are_the_servers() -> None:
    """A position is read back only in the form that the server gives it."""
    assert position_of(None) is None
    assert Position("e-1", 7) == position_of(At("e-1", 7)) == parse_position("e-1:7")
    for text in ("", "e", "e:", ":1", "e:-1", "e:1:2", "e e:1", "e:१"):
        with pytest.raises(InvalidField, match="since must be a position"):
            parse_position(text)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.sampled_from(
    ["id", "room", "text", "key", "since", "presence", "before", "limit", "offset", "topic"]
)
TYPES = st.sampled_from(
    ["join", "leave", "message", "history", "members", "typing", "read", "list", "subscribe"]
)
VALUES = JSON | st.just("a") | st.just({"epoch": "e", "offset": 1})
COMMANDS = st.builds(dict, st.dictionaries(FIELDS, VALUES), type=TYPES | JSON).map(json.dumps)


@given(st.text(st.characters(exclude_categories=())) | COMMANDS)
@example("{" + DEEP)
@example('{"a":' * 100_000)
def test_decoding_never_raises_and_its_problems_can_be_sent(text: str) -> None:
    """Whatever is typed becomes a command, or an error frame of a few hundred bytes."""
    for decoded in (decode_chat(text, LIMITS), decode_notification(text, LIMITS)):
        if isinstance(decoded, Problem):
            frame = json.loads(decoded.encode())
            assert frame["type"] == "error"
            assert frame["code"]
            assert frame["message"]
            assert len(frame["message"]) < 200
