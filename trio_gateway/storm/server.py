"""A server that can be started again: the command of ``--restart``.

In: a shell command. Out: a process, and word when it accepts. The rules: what this starts it ends,
with all its children; a server that somebody else started is not touched, the command has to
replace it.
"""

import os
import signal
import subprocess
from typing import Protocol

import trio

from trio_gateway.storm.transport import Network, Unreachable

_START = 20.0
_END = 5.0
_AGAIN = 0.05


class DoesNotStart(Exception):
    """The command did not bring the server back; ``str()`` says so."""


class Restartable(Protocol):
    """A server that a storm can have started again."""

    async def restart(self) -> None:
        """End it if it runs, start it, return when it accepts; raises DoesNotStart."""
        ...


class Server:
    """The server of a command.

    Arguments:
        command: for the shell; it may stay in the foreground or return.
        network: the way to it.
    """

    def __init__(self, command: str, network: Network) -> None:
        self._command = command
        self._network = network
        self._process: trio.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the shell that runs the command, which ``exec`` makes the server's."""
        return None if self._process is None else self._process.pid

    async def restart(self) -> None:
        """End what this started, run the command, wait until it accepts; raises DoesNotStart."""
        await self.stop()
        self._process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with trio.move_on_after(_START):
            while not await self.accepts():  # noqa: ASYNC110  # another process sets no event
                await trio.sleep(_AGAIN)
            return
        raise DoesNotStart(f"nobody accepts {_START:g} s after {self._command!r}")

    async def accepts(self) -> bool:
        """Return whether there is somebody who takes a connection."""
        try:
            with trio.fail_after(1.0):
                (await self._network.connect(tls=False, window=None)).close()
        except (Unreachable, trio.TooSlowError):
            return False
        return True

    async def stop(self) -> None:
        """End what this started: politely, then not."""
        process, self._process = self._process, None
        if process is None:
            return
        with trio.CancelScope(shield=True):
            for signum in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, signum)
                except ProcessLookupError:
                    break
                with trio.move_on_after(_END):
                    await process.wait()
                    if signum == signal.SIGTERM:
                        continue  # children that outlived it are not spared
                    break
            await process.wait()
