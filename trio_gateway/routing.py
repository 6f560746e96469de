"""Paths to handlers: typed parameters, mounting, a fallback.

In: patterns with their handlers, then the raw, percent-encoded path of a request without its query.
Out: a ``Match``, or ``None``, which the gateway answers with 404. The rule: the path alone decides,
it is decoded exactly once, and the order in which routes were added never matters.

**Patterns** are URL paths whose segments may be parameters, a whole segment each:

=============== ======================================================== =========
``{name}``      one segment, not empty; the same as ``{name:str}``       ``str``
``{name:int}``  ASCII digits, no sign, at most 19 and at most 2**63 - 1  ``int``
``{name:uuid}`` 8-4-4-4-12 hexadecimal digits                            ``UUID``
``{name:path}`` the rest, slashes included, maybe empty; only at the end ``str``
=============== ======================================================== =========

**Paths** are split at their slashes, then each segment is decoded once, as UTF-8. So ``%2F`` is
part of a parameter's value and never a separator (in the value of a ``path`` the two look the
same), and ``%252F`` arrives as ``%2F``. ``/caf%C3%A9`` and ``/café`` spell one path, in patterns
too. Nothing else is normalised: case counts, ``/rooms`` and ``/rooms/`` are two paths, and ``.``,
``..`` and empty segments are text like any other, so a handler that opens files checks its
parameters. A path that can't be decoded (a broken escape, bytes that are not UTF-8), that holds a
control character, ``?`` or ``#``, or that doesn't begin with a slash matches nothing, not even a
fallback.

**Precedence** is decided at the leftmost segment where two matching routes differ: text over
``int`` and ``uuid`` over ``str`` over ``path``. A fallback gets only what no route gets. Routes
that can't be told apart (``/a/{x}`` and ``/a/{y}``) are refused when the second is added; a
refused addition changes nothing.

**Cost**: a path of a route without parameters is one dict lookup, however many routes there are.
Any other path is a depth-first walk of a tree with a level a segment, which visits no node twice:
no path makes it visit more nodes, besides the root, than the patterns have segments.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import unquote_to_bytes
from uuid import UUID

import attrs

from trio_gateway.callsite import call_site
from trio_gateway.errors import DuplicateRoute, InvalidRoute

if TYPE_CHECKING:
    from trio_gateway.handshake.upgrade import Upgrade

Handler = Callable[["Upgrade"], Awaitable[None]]
"""An async function that decides an upgrade, and lives as long as its connection."""

_H = TypeVar("_H", bound=Handler)

_NOT_A_PATH = re.compile(r"%(?![0-9A-Fa-f]{2})|[?#]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_DIGITS = re.compile(r"[0-9]{1,19}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@attrs.frozen
class Match:
    """What a path leads to.

    Attributes:
        handler: decides the upgrade.
        params: the path parameters by name, decoded and converted; read-only.
        route: the pattern, with the prefixes it was mounted under; ``""`` for a fallback.
        is_fallback: no route matched, a fallback takes it.
    """

    handler: Handler
    params: Mapping[str, Any]
    route: str
    is_fallback: bool


def _integer(text: str) -> int | None:
    if _DIGITS.fullmatch(text) is None:
        return None
    value = int(text)
    return value if value < 2**63 else None  # what a store's integer column holds


def _uuid(text: str) -> UUID | None:
    return UUID(text) if _UUID.fullmatch(text) else None


@attrs.frozen(eq=False)
class _Converter:
    """A kind of parameter; ``parse`` gives ``None`` for text that isn't one."""

    name: str
    parse: Callable[[str], object | None]


_PATH = _Converter("path", lambda text: text)
# In order of precedence. No text is both an int and a uuid.
_CONVERTERS = (
    _Converter("int", _integer),
    _Converter("uuid", _uuid),
    _Converter("str", lambda text: text or None),
    _PATH,
)
_CONVERTER_NAMED = {converter.name: converter for converter in _CONVERTERS}


@attrs.frozen
class _Parameter:
    name: str
    converter: _Converter


# A segment of a pattern: its decoded text, or a parameter.
_Segments = tuple[str | _Parameter, ...]
# What tells routes apart: a pattern without the names of its parameters.
_Shape = tuple[str | _Converter, ...]

_EVERYTHING = _Parameter("", _PATH)  # what is left, kept under no name


@attrs.frozen
class _Route:
    pattern: str
    segments: _Segments
    handler: Handler
    where: str
    is_fallback: bool = False

    def under(self, prefix: str, segments: _Segments) -> "_Route":
        """Return this route as the router it is mounted in sees it; raises InvalidRoute."""
        pattern = prefix + self.pattern
        _check_names(pattern, segments + self.segments)
        return attrs.evolve(self, pattern=pattern, segments=segments + self.segments)

    def match(self, segments: Sequence[str]) -> Match:
        """Return the match of a path that has this route's shape."""
        params: dict[str, object] = {}
        for index, segment in enumerate(self.segments):
            if isinstance(segment, _Parameter) and segment.name:
                whole = segment.converter is _PATH
                text = "/".join(segments[index:]) if whole else segments[index]
                params[segment.name] = segment.converter.parse(text)
        return Match(
            handler=self.handler,
            params=MappingProxyType(params),
            route="" if self.is_fallback else self.pattern,
            is_fallback=self.is_fallback,
        )


class _Node:
    """The patterns that agree up to here; texts and converters are never equal."""

    def __init__(self) -> None:
        self.next: dict[str | _Converter, _Node] = {}
        self.route: _Route | None = None


class _Table:
    """Routes by shape, and a tree of those with parameters."""

    def __init__(self) -> None:
        self.by_shape: dict[_Shape, _Route] = {}
        self.root = _Node()

    def add(self, shape: _Shape, route: _Route) -> None:
        self.by_shape[shape] = route
        if all(isinstance(step, str) for step in shape):
            return
        node = self.root
        for step in shape:
            node = node.next.setdefault(step, _Node())
        node.route = route

    def find(self, segments: tuple[str, ...]) -> _Route | None:
        # The shape of a route without parameters is the path it matches, and nothing precedes it.
        return self.by_shape.get(segments) or self._walk(segments)

    def _walk(self, segments: tuple[str, ...]) -> _Route | None:
        end = len(segments)
        waiting = [(self.root, 0)]  # the most specific last, where it is taken from
        while waiting:
            node, depth = waiting.pop()
            if depth < end:
                text = segments[depth]
                for converter in reversed(_CONVERTERS):
                    branch = node.next.get(converter)
                    if branch is not None and converter.parse(text) is not None:
                        waiting.append((branch, end if converter is _PATH else depth + 1))
                if (branch := node.next.get(text)) is not None:
                    waiting.append((branch, depth + 1))
            elif node.route is not None:
                return node.route
        return None


class Router:
    """A set of routes; give it to ``serve_websocket``, or mount it in another router.

    Routes may be added at any time, also once the router is mounted or being served; a path is
    matched against the routes of that moment. Nothing here waits.
    """

    def __init__(self) -> None:
        self._routes = _Table()
        self._fallbacks = _Table()
        self._mounted_in: list[tuple[Router, str, _Segments]] = []
        self._mounts: dict[tuple[Router, _Shape], str] = {}

    @property
    def routes(self) -> tuple[str, ...]:
        """The patterns of all routes, mounted ones too, fallbacks not, in alphabetical order."""
        return tuple(sorted(route.pattern for route in self._routes.by_shape.values()))

    @overload
    def route(self, pattern: str) -> Callable[[_H], _H]: ...
    @overload
    def route(self, pattern: str, handler: _H) -> _H: ...
    def route(self, pattern: str, handler: _H | None = None) -> _H | Callable[[_H], _H]:
        """Add a route: ``@router.route("/rooms/{room}")`` or ``router.route("/", handler)``.

        Args:
            pattern: see the module's docstring.
            handler: left out, a decorator is returned; one handler may have many routes.

        Returns:
            The handler, unchanged.

        Raises:
            InvalidRoute: the pattern can't be read, or a prefix has one of its parameter names.
            DuplicateRoute: another route, here or where this router is mounted, has these paths.
        """
        segments, where = _parse(pattern), call_site()

        def add(handler: _H) -> _H:
            self._add([_Route(pattern, segments, handler, where)])
            return handler

        return add if handler is None else add(handler)

    def fallback(self, handler: _H) -> _H:
        """Add the handler of every path without a route: ``@router.fallback``, or call it.

        In a mounted router it has the paths under the prefix; the most specific prefix wins.

        Returns:
            The handler, unchanged.

        Raises:
            DuplicateRoute: there already is one.
        """
        self._add([_Route("", (_EVERYTHING,), handler, call_site(), is_fallback=True)])
        return handler

    def mount(self, prefix: str, router: "Router") -> None:
        """Serve the routes and the fallback of ``router`` under a prefix.

        The mount is live: what is added to ``router`` later is served here too, and checked against
        the routes here when it is added. ``/`` of a router mounted at ``/rooms`` is ``/rooms/``;
        the path ``/rooms`` itself belongs to this router.

        Args:
            prefix: a pattern without a slash at its end; may hold parameters, but no ``path``.
                ``"/"`` adds the routes as they are.
            router: may be mounted in many places.

        Raises:
            InvalidRoute: the prefix can't be read, it and a route use one parameter name, or the
                router would be mounted in itself.
            DuplicateRoute: two routes have the same paths, or it is already mounted there.
        """
        prefix, segments = _parse_prefix(prefix)
        where = call_site()
        if any(place is router for place, _, _ in self._places()):
            raise InvalidRoute(f"a router can't be mounted in itself, here under {prefix or '/'!r}")
        mount = (router, _shape(segments))
        if mount in self._mounts:
            raise DuplicateRoute(prefix or "/", self._mounts[mount], where)
        tables = (router._routes, router._fallbacks)
        routes = [route for table in tables for route in table.by_shape.values()]
        self._add([route.under(prefix, segments) for route in routes])
        self._mounts[mount] = where
        router._mounted_in.append((self, prefix, segments))

    def match(self, path: str) -> Match | None:
        """Return what a path leads to, or ``None`` when it leads nowhere.

        Args:
            path: as it was sent, percent-encoded, without the query. Nothing in it raises.
        """
        segments = _decode(path)
        if segments is None:
            return None
        route = self._routes.find(segments) or self._fallbacks.find(segments)
        return route.match(segments) if route else None

    def _places(self) -> "Iterator[tuple[Router, str, _Segments]]":
        """Give each router that serves the routes of this one, and the prefix it does so under."""
        yield self, "", ()
        for outer, prefix, segments in self._mounted_in:
            for place, before, segments_before in outer._places():
                yield place, before + prefix, segments_before + segments

    def _add(self, routes: list[_Route]) -> None:
        """Add routes here and wherever this router is mounted: all of them, or raise."""
        added: dict[tuple[_Table, _Shape], _Route] = {}
        for place, prefix, segments in self._places():
            for route in routes:
                mounted = route.under(prefix, segments)
                table = place._fallbacks if route.is_fallback else place._routes
                shape = _shape(mounted.segments)
                first = table.by_shape.get(shape) or added.get((table, shape))
                if first is not None:
                    what = f"{mounted.pattern} (fallback)" if route.is_fallback else mounted.pattern
                    raise DuplicateRoute(what.strip(), first.where, route.where)
                added[table, shape] = mounted
        for (table, shape), route in added.items():
            table.add(shape, route)


class _BareHandler(Router):
    """The router of a handler that wants every path."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._add([_Route("/{:path}", (_EVERYTHING,), handler, call_site())])
        self._match = Match(handler, MappingProxyType({}), "/{:path}", False)

    def match(self, path: str) -> Match:
        """Match anything, also what cannot be decoded, as a server without a router does."""
        return self._match


def as_router(handler_or_router: Handler | Router) -> Router:
    """Return a router as it is, and a handler as the router whose every path is that handler.

    That is a route, listed as ``/{:path}``, without parameters; it is not a fallback, for WebSocket
    is spoken on every path.
    """
    if isinstance(handler_or_router, Router):
        return handler_or_router
    return _BareHandler(handler_or_router)


def _decode(path: str) -> tuple[str, ...] | None:
    """Return the segments of a path, each decoded once (RFC 3986 §2.4), or ``None``."""
    if not path.startswith("/") or _NOT_A_PATH.search(path):
        return None
    raw = path[1:].split("/")
    try:
        segments = tuple(unquote_to_bytes(text).decode() for text in raw)
    except UnicodeError:
        return None
    return None if any(map(_CONTROL.search, segments)) else segments


def _parse(pattern: str) -> _Segments:
    """Return the segments of a pattern; raises InvalidRoute with what to write instead."""
    if not pattern.startswith("/"):
        raise InvalidRoute(f"route {pattern!r} must begin with a slash")
    decoded = _decode(pattern)
    if decoded is None:
        raise InvalidRoute(
            f"route {pattern!r} is not a path: write % as %25, ? as %3F, # as %23; "
            "escapes are UTF-8, and control characters match nothing"
        )
    raw = pattern[1:].split("/")
    segments = tuple(_parse_segment(pattern, *pair) for pair in zip(raw, decoded, strict=True))
    if any(isinstance(part, _Parameter) and part.converter is _PATH for part in segments[:-1]):
        raise InvalidRoute(f"route {pattern!r}: a path parameter takes the rest, put it at the end")
    _check_names(pattern, segments)
    return segments


def _parse_segment(pattern: str, raw: str, decoded: str) -> str | _Parameter:
    if "{" not in raw and "}" not in raw:
        return decoded
    parts = _PARAMETER.fullmatch(raw)
    if parts is None:
        raise InvalidRoute(
            f"route {pattern!r}: {raw!r} is not a parameter; a parameter is a whole segment, "
            "{name} or {name:converter}, and braces in text are %7B and %7D"
        )
    converter = _CONVERTER_NAMED.get(parts[2] or "str")
    if converter is None:
        known = ", ".join(_CONVERTER_NAMED)
        raise InvalidRoute(f"route {pattern!r}: no converter {parts[2]!r}; there are {known}")
    return _Parameter(parts[1], converter)


def _parse_prefix(prefix: str) -> tuple[str, _Segments]:
    segments = _parse(prefix)
    if prefix == "/":
        return "", ()
    if segments[-1] == "":
        raise InvalidRoute(
            f"prefix {prefix!r} must not end with a slash, its routes begin with one"
        )
    if isinstance(segments[-1], _Parameter) and segments[-1].converter is _PATH:
        raise InvalidRoute(f"prefix {prefix!r}: a path parameter leaves nothing to the router")
    return prefix, segments


def _check_names(pattern: str, segments: _Segments) -> None:
    names = [part.name for part in segments if isinstance(part, _Parameter)]
    if len(set(names)) < len(names):
        raise InvalidRoute(f"route {pattern!r} uses one parameter name twice")


def _shape(segments: _Segments) -> _Shape:
    return tuple(part if isinstance(part, str) else part.converter for part in segments)
