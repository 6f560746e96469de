"""What systemd is told (``sd_notify(3)``): ready, reloading, stopping, still alive.

In: ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``. Out: datagrams. The rule: nobody who listens badly, or
not at all, is waited for or noticed.
"""

import os
import socket
import time
from collections.abc import MutableMapping

import trio

_MICROSECONDS = 1_000_000


class Systemd:
    """The service manager, or nobody.

    Arguments:
        environ: its variables are removed, so that no child speaks for us.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._variables = {
            name: environ.pop(name)
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
            if name in environ
        }
        path = self._variables.get("NOTIFY_SOCKET", "")
        # An @ stands for the null byte of Linux's abstract names.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path

    @property
    def variables(self) -> dict[str, str]:
        """What it was started with, for the program that takes this one's place."""
        return dict(self._variables)

    def ready(self) -> None:
        """Say that connections are accepted, or that a reload is over."""
        self._tell("READY=1", "STATUS=serving")

    def reloading(self) -> None:
        """Say that a reload has begun; ``ready()`` ends it."""
        self._tell(
            "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading"
        )

    def stopping(self) -> None:
        """Say that a drain has begun."""
        self._tell("STOPPING=1", "STATUS=draining")

    async def keep_alive(self) -> None:
        """Feed the watchdog, if there is one, until cancelled."""
        usec = self._variables.get("WATCHDOG_USEC", "")
        mine = self._variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if not usec.isdigit() or not int(usec) or not mine:
            return
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(int(usec) / _MICROSECONDS / 2)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except (OSError, ValueError):
                pass  # it is gone, full, or no address at all
