"""Paths to handlers: tables for the rules, a linear model for precedence, counts for cost."""

# "expected == actual" is the order everywhere in these tests

import random
import re
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_gateway.errors import DuplicateRoute, InvalidRoute
from trio_gateway.routing import Handler, Match, Router, as_router

ID = "0e9c4d3a-5b1f-4c6e-8d2a-7f00a1b2c3d4"


async def handler(upgrade: object) -> None:
    """Stand for a handler; routing never calls it."""


async def other(upgrade: object) -> None:
    """Stand for another handler."""


def router_of(*patterns: str) -> Router:
    router = Router()
    for pattern in patterns:
        router.route(pattern, handler)
    return router


def found(router: Router, path: str) -> tuple[str, dict[str, Any]] | None:
    match = router.match(path)
    return None if match is None else (match.route, dict(match.params))


def test_direct() -> None:
    """A route added directly gives its handler back and matches with it."""
    router = Router()
    assert handler is router.route("/", handler)
    assert Match(handler, {}, "/", is_fallback=False) == router.match("/")


def test_decorator() -> None:
    """The decorator leaves the handler as it is, so that decorators stack."""
    router = Router()
    assert handler is router.route("/a")(router.route("/b")(handler))
    assert ("/a", "/b") == router.routes


def test_fallback() -> None:
    """A fallback gives its handler back, has no route, and gets only what no route gets."""
    router = router_of("/{x}/a")
    assert other is router.fallback(other)
    assert Match(other, {}, "", is_fallback=True) == router.match("/b/b")
    assert Match(other, {}, "", is_fallback=True) == router.match("/")
    assert Match(handler, {"x": "b"}, "/{x}/a", is_fallback=False) == router.match("/b/a")


def test_params_are_read_only() -> None:
    """What one handler does with its parameters reaches nobody else."""
    match = router_of("/{x}").match("/1")
    assert match is not None
    with pytest.raises(TypeError):
        match.params["x"] = "2"  # type: ignore[index]  # a Mapping: that it raises is the test


def test_a_handler_is_every_path() -> None:
    """A bare handler has every path, without parameters, and not as a fallback."""
    router = as_router(handler)
    assert Match(handler, {}, "/{:path}", is_fallback=False) == router.match("/")
    assert Match(handler, {}, "/{:path}", is_fallback=False) == router.match("/any/%C3%A9//thing/")
    assert Match(handler, {}, "/{:path}", is_fallback=False) == router.match("/%")


def test_a_router_is_itself() -> None:
    """A router needs nothing made of it."""
    router = Router()
    assert router is as_router(router)


@pytest.mark.parametrize(
    "pattern, path, params",
    [
        ("/", "/", {}),
        ("/", "//", None),
        ("/", "", None),
        ("/", "*", None),
        ("/rooms", "/rooms", {}),
        ("/rooms", "/rooms/", None),
        ("/rooms", "/Rooms", None),
        ("/rooms", "rooms", None),
        ("/rooms", "//rooms", None),
        ("/rooms", "/%72ooms", {}),
        ("/rooms/", "/rooms/", {}),
        ("/rooms/", "/rooms", None),
        ("/a//b", "/a//b", {}),
        ("/a//b", "/a/b", None),
        ("/rooms/{room}", "/rooms/lobby", {"room": "lobby"}),
        ("/rooms/{room}", "/rooms/", None),
        ("/rooms/{room}", "/rooms/a/b", None),
        ("/rooms/{room}", "/rooms/lobby/", None),
        ("/rooms/{room:str}/ws", "/rooms/lobby/ws", {"room": "lobby"}),
        ("/rooms/{room}", "/rooms/a+b", {"room": "a+b"}),
        ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("/{n:int}", "/0", {"n": 0}),
        ("/{n:int}", "/007", {"n": 7}),
        ("/{n:int}", "/%31", {"n": 1}),
        ("/{n:int}", "/9223372036854775807", {"n": 2**63 - 1}),
        ("/{n:int}", "/9223372036854775808", None),
        ("/{n:int}", "/00000000000000000001", None),
        ("/{n:int}", "/" + "9" * 8000, None),
        ("/{n:int}", "/", None),
        ("/{n:int}", "/-1", None),
        ("/{n:int}", "/+1", None),
        ("/{n:int}", "/1_0", None),
        ("/{n:int}", "/%201", None),
        ("/{n:int}", "/1%0A", None),
        ("/{n:int}", "/%D9%A1", None),  # ARABIC-INDIC DIGIT ONE
        ("/{u:uuid}", f"/{ID}", {"u": UUID(ID)}),
        ("/{u:uuid}", f"/{ID.upper()}", {"u": UUID(ID)}),
        ("/{u:uuid}", f"/{{{ID}}}", None),
        ("/{u:uuid}", f"/{ID.replace('-', '')}", None),
        ("/{u:uuid}", f"/urn:uuid:{ID}", None),
        ("/f/{rest:path}", "/f/a", {"rest": "a"}),
        ("/f/{rest:path}", "/f/a//b/", {"rest": "a//b/"}),
        ("/f/{rest:path}", "/f/", {"rest": ""}),
        ("/f/{rest:path}", "/f", None),
        ("/f/{rest:path}", "/f/../%2e%2e", {"rest": "../.."}),
        ("/f/{rest:path}", "/f//etc", {"rest": "/etc"}),
        ("/{rest:path}", "/", {"rest": ""}),
        ("/{u}/{rest:path}", "/a/b/c", {"u": "a", "rest": "b/c"}),
    ],
)
def test_match(pattern: str, path: str, params: dict[str, Any] | None) -> None:
    """A pattern matches its paths and no others."""
    assert (None if params is None else (pattern, params)) == found(router_of(pattern), path)


@pytest.mark.parametrize(
    "pattern, path, params",
    [
        ("/café", "/caf%C3%A9", {}),
        ("/café", "/caf%c3%a9", {}),
        ("/café", "/café", {}),
        ("/caf%C3%A9", "/caf%C3%A9", {}),
        ("/caf%C3%A9", "/caf%25C3%25A9", None),
        ("/café", "/cafe%CC%81", None),  # the same glyph, another spelling: not normalised
        ("/100%25", "/100%25", {}),
        ("/100%25", "/100%2525", None),
        ("/%7Bx%7D", "/%7Bx%7D", {}),
        ("/%7Bx%7D", "/{x}", {}),
        ("/%7Bx%7D", "/a", None),
        ("/what%3F", "/what%3F", {}),
        ("/a%2Fb", "/a%2Fb", {}),
        ("/a%2Fb", "/a/b", None),
        ("/a/b", "/a%2Fb", None),
        ("/{x}", "/a%2Fb", {"x": "a/b"}),
        ("/{x}", "/a%252Fb", {"x": "a%2Fb"}),
        ("/{x}", "/%252e%252e", {"x": "%2e%2e"}),
        ("/{x}", "/a%20b", {"x": "a b"}),
        ("/{x}", "/%3Fa=b%23c", {"x": "?a=b#c"}),
        ("/{x}", "/%F0%9F%98%80", {"x": "\U0001f600"}),
        ("/{rest:path}", "/a%2Fb/c", {"rest": "a/b/c"}),
        ("/admin", "/x/../admin", None),
        ("/admin", "/./admin", None),
        ("/admin", "/%2e/admin", None),
        ("/x/{y}", "/x/..", {"y": ".."}),
        ("/a/../b", "/a/../b", {}),
        ("/a/../b", "/b", None),
    ],
)
def test_decoding(pattern: str, path: str, params: dict[str, Any] | None) -> None:
    """Segments are decoded once and otherwise left alone."""
    assert (None if params is None else (pattern, params)) == found(router_of(pattern), path)


UNDECODABLE = [
    "",
    "a",
    "*",
    "http://h/a",
    "/%",
    "/a%2",
    "/%zz",
    "/%+1",
    "/%u0041",
    "/%ff",
    "/%C3",
    "/%C3/%A9",
    "/%C0%AF",  # an overlong slash
    "/%C0%80",  # an overlong NUL
    "/%ED%A0%80",  # a surrogate
    "/%F4%90%80%80",  # above U+10FFFF
    "/\ud800",
    "/%00",
    "/a%00b",
    "/\x00",
    "/%0D%0A",
    "/%1B",
    "/%7F",
    "/%C2%85",
    "/a?b",
    "/a#b",
]


@pytest.mark.parametrize("path", UNDECODABLE)
def test_undecodable(path: str) -> None:
    """What cannot be decoded belongs to no route and no fallback, only to a bare handler."""
    router = router_of("/{x}", "/{rest:path}", "/{x}/{y}")
    router.fallback(handler)
    assert None is router.match(path)
    assert Match(handler, {}, "/{:path}", is_fallback=False) == as_router(handler).match(path)


@given(st.text())
@example("/%")
@example("/" * 8192)
def test_no_path_raises(path: str) -> None:
    """Whatever a path is, the answer is a match or none."""
    router = router_of("/{n:int}/{x}", "/{rest:path}")
    router.match(path)
    router.match("/" + path)


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1
)  # no surrogates: they have no UTF-8; no control characters: they are refused


@given(TEXT)
@example("a/b")
@example("%2F")
@example("%252F")
@example("..")
def test_decoded_exactly_once(text: str) -> None:
    """A parameter is what the client encoded, however often that looks encoded itself."""
    router = router_of("/x/{x}")
    once = quote(text, safe="")
    assert ("/x/{x}", {"x": text}) == found(router, f"/x/{once}")
    assert ("/x/{x}", {"x": once}) == found(router, f"/x/{quote(once, safe='')}")


@given(TEXT)
def test_text_matches_in_every_spelling(text: str) -> None:
    """A pattern and a path that spell one text in two ways are one path."""
    every_byte = "".join(f"%{byte:02x}" for byte in text.encode())
    assert (f"/{every_byte}", {}) == found(router_of(f"/{every_byte}"), f"/{quote(text, safe='')}")


@pytest.mark.parametrize(
    "path, pattern",
    [
        ("/a/1", "/a/1"),
        ("/a/%31", "/a/1"),
        ("/a/2", "/a/{n:int}"),
        (f"/a/{ID}", "/a/{u:uuid}"),
        ("/a/b", "/a/{x}"),
        ("/a/", "/a/{rest:path}"),
        ("/a/b/c", "/a/{rest:path}"),
        ("/a/b/d", "/a/b/{rest:path}"),
        ("/a/2/c", "/a/{n:int}/{y}"),
        ("/b/2/c", "/{x}/2/c"),
        ("/b/2/d", "/{x}/{n:int}/d"),
        ("/b/c/d", "/{rest:path}"),
    ],
)
def test_precedence(path: str, pattern: str) -> None:
    """Text over typed over str over path, leftmost first, in every order of addition."""
    patterns = [
        "/a/1",
        "/a/{n:int}",
        "/a/{u:uuid}",
        "/a/{x}",
        "/a/{rest:path}",
        "/a/b/{rest:path}",
        "/a/{n:int}/{y}",
        "/{x}/2/c",
        "/{x}/{n:int}/d",
        "/{rest:path}",
    ]
    if path == "/a/b/c":
        patterns.remove("/a/b/{rest:path}")
    for seed in range(20):
        random.Random(seed).shuffle(patterns)
        match = router_of(*patterns).match(path)
        assert match is not None
        assert pattern == match.route


KINDS = {
    "int": (1, re.compile(r"[0-9]{1,19}")),
    "uuid": (1, re.compile(r"(?i)[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")),
    "str": (2, re.compile(r"(?s).+")),
}


class LinearRouter:
    """The rules, with no eye to speed: try every pattern, keep the first by precedence."""

    def __init__(self) -> None:
        self.patterns: dict[tuple[tuple[str, str], ...], str] = {}

    @staticmethod
    def parts(pattern: str) -> tuple[tuple[str, str], ...]:
        """Split a pattern into (kind, text) a segment."""
        raw = pattern[1:].split("/")
        return tuple(
            (part[1:-1].split(":")[1], "") if part[0:1] == "{" else ("text", unquote(part))
            for part in raw
        )

    def add(self, pattern: str) -> bool:
        """Add a pattern; false when one of its shape is there."""
        before = len(self.patterns)
        self.patterns.setdefault(self.parts(pattern), pattern)
        return len(self.patterns) > before

    def match(self, path: str) -> str | None:
        if re.search(r"%(?![0-9a-fA-F]{2})", path):
            return None
        try:
            segments = [unquote(part, errors="strict") for part in path[1:].split("/")]
        except UnicodeDecodeError:
            return None
        ranked = [(self.rank(shape, segments), pattern) for shape, pattern in self.patterns.items()]
        return min(((rank, pattern) for rank, pattern in ranked if rank), default=(None, None))[1]

    @staticmethod
    def rank(shape: tuple[tuple[str, str], ...], segments: list[str]) -> tuple[int, ...]:
        ranks: list[int] = []
        for index, (kind, text) in enumerate(shape):
            if index >= len(segments):
                return ()
            if kind == "path":
                return (*ranks, 3)
            if kind == "text":
                rank, matches = 0, text == segments[index]
            else:
                rank, matches = KINDS[kind][0], bool(KINDS[kind][1].fullmatch(segments[index]))
            if not matches:
                return ()
            ranks.append(rank)
        return tuple(ranks) if len(shape) == len(segments) else ()


@st.composite
def patterns(draw: st.DrawFn) -> str:
    kinds = st.sampled_from(["a", "%61", "b", "1", "", "%2F", "int", "uuid", "str", "str"])
    parts = draw(st.lists(kinds, min_size=1, max_size=4))
    if draw(st.booleans()):
        parts.append("path")
    named = [
        f"{{p{index}:{part}}}" if part in {*KINDS, "path"} else part
        for index, part in enumerate(parts)
    ]
    return "/" + "/".join(named)


SEGMENTS = ["a", "%61", "%2561", "b", "1", "%31", "1%2F", "", "%2F", "..", "é", "%C3%A9", ID]
PATHS = st.lists(
    st.sampled_from(SEGMENTS) | st.sampled_from(["%", "%zz", "%ff", "%C3"]), min_size=1, max_size=6
).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(patterns(), max_size=12), st.lists(PATHS, min_size=1, max_size=12), st.randoms())
@example(["/", "/"], ["/"], random.Random(0))
def test_agrees_with_the_linear_router(
    drawn: list[str], paths: list[str], order: random.Random
) -> None:
    """The tree and a linear search choose the same route, and refuse the same duplicates."""
    router, model, added = Router(), LinearRouter(), []
    for pattern in drawn:
        if model.add(pattern):
            router.route(pattern, handler)
            added.append(pattern)
        else:
            with pytest.raises(DuplicateRoute):
                router.route(pattern, handler)
    order.shuffle(added)
    shuffled = router_of(*added)
    assert tuple(sorted(added)) == router.routes == shuffled.routes
    for path in paths:
        match = router.match(path)
        assert model.match(path) == (match and match.route)
        assert match == shuffled.match(path)


@pytest.mark.parametrize(
    "pattern, because",
    [
        ("", "begin with a slash"),
        ("rooms", "begin with a slash"),
        ("/{rest:path}/x", "at the end"),
        ("/{rest:path}/", "at the end"),
        ("/{x}/{x}", "twice"),
        ("/{x}/{x:path}", "twice"),
        ("/{x:slug}", "there are int, uuid, str, path"),
        ("/{x:}", "whole segment"),
        ("/{}", "whole segment"),
        ("/{:path}", "whole segment"),
        ("/{1x}", "whole segment"),
        ("/{é}", "whole segment"),
        ("/a-{x}", "whole segment"),
        ("/{x}{y}", "whole segment"),
        ("/{x/y}", "whole segment"),
        ("/}", "whole segment"),
        ("/100%", "%25"),
        ("/%ff", "UTF-8"),
        ("/a?b", "%3F"),
        ("/a#b", "%23"),
        ("/%00", "control characters"),
        ("/a\n", "control characters"),
    ],
)
def test_invalid_patterns(pattern: str, because: str) -> None:
    """A pattern that cannot be read is refused at once, also by the decorator, and says why."""
    router = Router()
    with pytest.raises(InvalidRoute, match=re.escape(because)):
        router.route(pattern)
    assert () == router.routes


@pytest.mark.parametrize(
    "first, second",
    [
        ("/a", "/a"),
        ("/a", "/%61"),
        ("/café", "/caf%C3%A9"),
        ("/a/{x}", "/a/{y}"),
        ("/a/{x}", "/a/{x:str}"),
        ("/{x:int}/b", "/{y:int}/b"),
        ("/{x:path}", "/{y:path}"),
    ],
)
def test_duplicates(first: str, second: str) -> None:
    """Two routes that cannot be told apart are an error that names both places."""
    router = Router()
    router.route(first, handler)
    line = sys._getframe().f_lineno
    with pytest.raises(DuplicateRoute) as caught:
        router.route(second)(other)
    assert second == caught.value.pattern
    assert (f"{__file__}:{line - 1}", f"{__file__}:{line + 2}") == (
        caught.value.first,
        caught.value.second,
    )
    assert (first,) == router.routes


def test_second_fallback() -> None:
    """A second fallback is an error that names both places, and the first stays."""
    router = Router()
    router.fallback(handler)
    line = sys._getframe().f_lineno
    with pytest.raises(DuplicateRoute) as caught:
        router.fallback(other)
    assert "(fallback)" == caught.value.pattern
    assert (f"{__file__}:{line - 1}", f"{__file__}:{line + 2}") == (
        caught.value.first,
        caught.value.second,
    )
    assert Match(handler, {}, "", is_fallback=True) == router.match("/")


def test_distinct_kinds_are_not_duplicates() -> None:
    """Routes that differ in the kind of a parameter live side by side."""
    assert 5 == len(router_of("/1", "/{a:int}", "/{a:uuid}", "/{a}", "/{a:path}").routes)


def test_mount() -> None:
    """Mounted routes are found under the prefix, with its parameters, and nowhere else."""
    rooms, root = router_of("/", "/{user}"), router_of("/")
    root.mount("/rooms/{room:int}", rooms)
    assert ("/", "/rooms/{room:int}/", "/rooms/{room:int}/{user}") == root.routes
    assert ("/rooms/{room:int}/{user}", {"room": 7, "user": "ann"}) == found(root, "/rooms/7/ann")
    assert ("/rooms/{room:int}/", {"room": 7}) == found(root, "/rooms/7/")
    assert None is root.match("/rooms/7")
    assert None is root.match("/ann")
    assert ("/{user}", {"user": "ann"}) == found(rooms, "/ann")


def test_mount_without_a_prefix() -> None:
    """A router mounted at the root adds its routes as they are."""
    root = router_of("/a")
    root.mount("/", router_of("/b"))
    assert ("/a", "/b") == root.routes


def test_mounts_are_live() -> None:
    """A route added to a router that is mounted, however deep, is served at once."""
    leaf, branch, root = Router(), Router(), Router()
    root.mount("/b", branch)
    branch.mount("/l", leaf)
    branch.mount("/{x}", leaf)
    leaf.route("/late", handler)
    assert ("/b/l/late", {}) == found(root, "/b/l/late")
    assert ("/b/{x}/late", {"x": "y"}) == found(root, "/b/y/late")


def test_precedence_across_mounts() -> None:
    """Precedence is between patterns, wherever they were added."""
    root = router_of("/{x}/b/{z}")
    root.mount("/a", router_of("/{y}/c"))
    assert ("/a/{y}/c", {"y": "b"}) == found(root, "/a/b/c")
    assert ("/{x}/b/{z}", {"x": "a", "z": "d"}) == found(root, "/a/b/d")


def test_mounted_fallbacks() -> None:
    """A mounted fallback has what is under its prefix; the most specific prefix wins."""
    inner, middle, root = router_of("/x"), Router(), router_of("/{a}/{b}/{c}")
    middle.mount("/{n:int}", inner)
    root.mount("/m", middle)
    root.fallback(handler)
    inner.fallback(other)
    assert Match(other, {"n": 1}, "", is_fallback=True) == root.match("/m/1/")
    assert Match(other, {"n": 1}, "", is_fallback=True) == root.match("/m/1/y/z")
    assert Match(handler, {}, "", is_fallback=True) == root.match("/m/1")
    assert Match(handler, {}, "", is_fallback=True) == root.match("/m/one/")
    assert ("/{a}/{b}/{c}", {"a": "m", "b": "1", "c": "y"}) == found(root, "/m/1/y")
    with pytest.raises(DuplicateRoute, match=re.escape("/m/{k:int} (fallback)")):
        root.mount("/m/{k:int}", as_fallback(handler))


def as_fallback(handler: Handler) -> Router:
    router = Router()
    router.fallback(handler)
    return router


def test_refused_mounts_change_nothing() -> None:
    """A mount with one duplicate among its routes adds none, now or later."""
    child, root = router_of("/a", "/b"), router_of("/x/b")
    with pytest.raises(DuplicateRoute, match="'/x/b'"):
        root.mount("/x", child)
    child.route("/c", handler)
    assert ("/x/b",) == root.routes


def test_late_duplicates_change_nothing() -> None:
    """A late route that is a duplicate in one place is added in none."""
    child, free, taken = Router(), Router(), router_of("/x/late")
    free.mount("/x", child)
    taken.mount("/x", child)
    with pytest.raises(DuplicateRoute, match="'/x/late'"):
        child.route("/late", handler)
    assert ((), ()) == (child.routes, free.routes)


def test_late_duplicates_of_themselves() -> None:
    """A router that came into another by two ways at one prefix cannot get a route."""
    leaf, left, right, root = Router(), Router(), Router(), Router()
    for side in left, right:
        side.mount("/l", leaf)
        root.mount("/s", side)
    with pytest.raises(DuplicateRoute, match="'/s/l/a'"):
        leaf.route("/a", handler)
    assert ((), ()) == (leaf.routes, root.routes)


def test_mounted_twice() -> None:
    """The same router at the same prefix again is an error that names both mounts."""
    child, root = Router(), Router()
    root.mount("/{x}", child)
    line = sys._getframe().f_lineno
    with pytest.raises(DuplicateRoute) as caught:
        root.mount("/{y}", child)
    assert (f"{__file__}:{line - 1}", f"{__file__}:{line + 2}") == (
        caught.value.first,
        caught.value.second,
    )


def test_mounted_in_itself() -> None:
    """A router inside itself would have routes without end."""
    inner, outer = Router(), Router()
    outer.mount("/a", inner)
    for router in inner, outer:
        with pytest.raises(InvalidRoute, match="in itself"):
            inner.mount("/b", router)


@pytest.mark.parametrize(
    "prefix, because",
    [
        ("", "begin with a slash"),
        ("a", "begin with a slash"),
        ("/a/", "end with a slash"),
        ("/{rest:path}", "leaves nothing"),
        ("/{rest:path}/a", "at the end"),
        ("/{x", "whole segment"),
        ("/{room}", "twice"),
    ],
)
def test_invalid_prefixes(prefix: str, because: str) -> None:
    """A prefix that cannot be read, or has a parameter of the routes, is refused and says why."""
    root = Router()
    with pytest.raises(InvalidRoute, match=because):
        root.mount(prefix, router_of("/{room}"))
    assert () == root.routes


def test_late_parameter_twice() -> None:
    """A late route that has a parameter of the prefix is refused everywhere."""
    child, root = Router(), Router()
    root.mount("/{x}", child)
    with pytest.raises(InvalidRoute, match="twice"):
        child.route("/{x}", handler)
    assert ((), ()) == (child.routes, root.routes)


@given(
    st.lists(patterns(), max_size=6, unique_by=LinearRouter.parts),
    st.sampled_from(["/", "/a", "/{q:int}", "/a/{q}", "/{q:uuid}/b"]),
    st.lists(PATHS, min_size=1, max_size=8),
    st.integers(0, 6),
)
def test_mounting_is_writing_the_prefix(
    drawn: list[str], prefix: str, paths: list[str], early: int
) -> None:
    """Routes mounted, before or after they are added, match as if written with the prefix."""
    child, mounted = router_of(*drawn[:early]), Router()
    mounted.mount(prefix, child)
    for pattern in drawn[early:]:
        child.route(pattern, handler)
    written = router_of(*(prefix.rstrip("/") + pattern for pattern in drawn))
    assert written.routes == mounted.routes
    for path in paths:
        for before in "", "/a", "/1", f"/{ID}/b":
            assert written.match(before + path) == mounted.match(before + path)


def lines_run(call: Callable[[], object]) -> int:
    """Count the lines of Python that a call runs: what grows with a search, on any machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def steps(router: Router, path: str) -> int:
    return lines_run(lambda: router.match(path))


@pytest.mark.parametrize(
    "path, exists",
    [
        ("/static/7", True),
        ("/section-7/page", True),
        ("/users/ann", True),
        ("/users/ann/inbox", False),
        ("/nowhere", False),
    ],
)
def test_lookup_is_flat(path: str, exists: bool) -> None:
    """A lookup takes the same steps among 2,000 static routes as among twenty, found or not."""
    taken = []
    for size in 10, 1000:
        router = router_of("/users/{user}", "/{a}/{b}/{n:int}")
        for n in range(size):
            router.route(f"/static/{n}", handler)
            router.route(f"/section-{n}/page", handler)
        assert exists == (router.match(path) is not None)
        taken.append(steps(router, path))
    assert taken[0] == taken[1] > 0


def texts_and_parameters(depth: int) -> Iterator[str]:
    """Give every pattern of ``depth`` segments, each the text ``a`` or a parameter, and an int."""
    for number in range(2**depth):
        parts = [f"{{p{bit}}}" if number >> bit & 1 else "a" for bit in range(depth)]
        yield "/" + "/".join([*parts, "{n:int}"])


# What the walk may run for one node of the tree.
LINES_PER_NODE = 25


def test_backtracking_is_bounded_by_the_patterns() -> None:
    """A path that leads into every branch and out of none costs each node once."""
    depth = 8
    router = router_of(*texts_and_parameters(depth))
    path = "/a" * depth + "/x"
    nodes = 2 ** (depth + 1)
    assert None is router.match(path)
    assert LINES_PER_NODE * nodes > steps(router, path) - steps(Router(), path)


def test_backtracking_is_not_multiplied_by_the_path() -> None:
    """However many ways there are to lay a few patterns over a long path, the walk stays small."""
    depths = range(1, 40)
    router = router_of(
        *("".join(f"/{{p{n}}}" for n in range(depth)) + "/a/{n:int}" for depth in depths),
        *("/a" * depth + "/{x}/b" for depth in depths),
        *("/a" * depth + "/{n:int}/{rest:path}" for depth in depths),
    )
    segments = sum(pattern.count("/") for pattern in router.routes)
    walks = []
    for length in 20, 100, 4000:
        path = "/a" * length
        assert None is router.match(path)
        walks.append(steps(router, path) - steps(Router(), path))
    assert walks[1] == walks[2]
    assert LINES_PER_NODE * segments > max(walks)
