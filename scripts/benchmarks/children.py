"""What the runner's child processes have in common: they end with it, and how one fails."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ServerFailed(Exception):
    """A server that did not start, or did not live."""


def die_with_parent() -> None:
    """Linux: be killed when the runner ends, even by SIGKILL. For ``preexec_fn``."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
