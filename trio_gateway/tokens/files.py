"""Key files, read again when they change: a rotation needs no restart.

In: paths. Out: the keys that they hold now. The rules: looking costs a ``stat`` a file and at most
once a second, whatever the load; a file that is gone or spoiled leaves the keys that it had, and
says so once, for half of a rotation must not lock everybody out.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable

import attrs

from trio_gateway.tokens.keys import InvalidKey, Key, read_keys

_LOOK_EVERY = 1.0
_MAX_BYTES = 1024 * 1024
_log = logging.getLogger("trio_gateway.tokens")
_Stamp = tuple[int, int, int, int]


@attrs.define
class _File:
    path: str
    stamp: _Stamp | None
    keys: tuple[Key, ...]


class KeyFiles:
    """The keys of one or several files.

    Arguments:
        paths: files as ``read_keys()`` takes them. To rotate a key, add the new one (to a JWKS, or
            as a file), have tokens signed with it, and take the old one away when the last token it
            has signed has expired.
        clock: seconds that go on evenly.

    Raises:
        InvalidKey: a file cannot be read or used; the text names it.
    """

    def __init__(
        self, paths: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._files: list[_File] = []
        for path in paths:
            stamp = _stamp(path)
            self._files.append(_File(path, stamp, _read(path)))
        self._clock = clock
        self._looked = clock()
        self._keys = self._gather()

    def current(self) -> tuple[Key, ...]:
        """Return the keys as they are now; blocks for a ``stat`` or the reading of a key file."""
        now = self._clock()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            changed = [self._look(file) for file in self._files]
            if any(changed):
                self._keys = self._gather()
        return self._keys

    def _look(self, file: _File) -> bool:
        """Read a file again if it has changed; return whether it gave keys."""
        stamp = _stamp(file.path)
        if stamp == file.stamp:
            return False
        file.stamp = stamp
        try:
            file.keys = _read(file.path)
        except InvalidKey as error:
            _log.warning("%s; the keys that it had still count", error)
            return False
        _log.info("%s was read again: %d keys", file.path, len(file.keys))
        return True

    def _gather(self) -> tuple[Key, ...]:
        return tuple(key for file in self._files for key in file.keys)


def _stamp(path: str) -> _Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _read(path: str) -> tuple[Key, ...]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidKey(f"cannot read {path!r}: {error.strerror}") from None
    except ValueError:
        raise InvalidKey(f"cannot read {path!r}: this is no path") from None
    if len(data) > _MAX_BYTES:
        raise InvalidKey(f"{path!r} has more than {_MAX_BYTES} bytes; a key is smaller")
    try:
        return read_keys(data)
    except InvalidKey as error:
        raise InvalidKey(f"{path!r} {error}") from None
