"""Where in the caller's code something was asked for, for messages that name two places."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import trio

_PACKAGE = str(Path(__file__).parent)
_TRIO = str(Path(trio.__file__).parent)


def call_site() -> str:
    """Return ``file:line`` of the innermost frame outside this package, or ``"unknown"``.

    A task that was just started stands in nobody's frame: there it is where its parent waits, which
    is in ``nursery.start()`` when the parent has started it so.
    """
    for file, line in _places():
        if not file.startswith((_PACKAGE, _TRIO)):
            return f"{file}:{line}"
    return "unknown"


def _places() -> Iterator[tuple[str, int]]:
    frame = inspect.currentframe()
    while frame is not None and not frame.f_code.co_filename.startswith(_TRIO):
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    if frame is None:
        return
    task = trio.lowlevel.current_task()
    while task.parent_nursery is not None:
        task = task.parent_nursery.parent_task
        places = [(frame.f_code.co_filename, line) for frame, line in task.iter_await_frames()]
        yield from reversed(places)
