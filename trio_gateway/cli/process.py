"""The process of ``serve``: from options to an exit status.

In: options, signals. Out: on stdout one line that says where it listens, and the API token where it
made one; logs on stderr; an exit status. The rule: the first SIGTERM or SIGINT drains, the second
stops at once, both end with status 0.
"""

import os
import resource
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from types import FrameType

import structlog
import trio

from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.cli.listening import Opened, open_listeners
from trio_gateway.cli.logs import configure_logs
from trio_gateway.cli.options import ServeOptions
from trio_gateway.errors import ConfigurationError
from trio_gateway.gateway import Gateway
from trio_gateway.hub.memory import MemoryBroker

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MOST_FILES = 2**20  # asked for where the system names no limit
_log = structlog.stdlib.get_logger("trio_gateway.cli")


def serve(options: ServeOptions, *, strangers: list[str]) -> int:
    """Serve until a signal; return the exit status.

    Arguments:
        options: what was asked for.
        strangers: environment variables that mean nothing, to be warned of.

    Raises:
        ConfigurationError: a certificate or an address cannot be used; nothing was served.
    """
    early: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        early.append(signum)

    # Trio's receiver puts this handler back when it ends: a signal that comes before or after it
    # is noted and does not end the process its own way.
    before = {signum: signal.signal(signum, note) for signum in _SIGNALS}
    configure_logs(json=options.json_logs)
    try:
        trio.run(_Process(options, strangers, early).run)
    except ConfigurationError:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        raise
    except Exception:
        _log.critical("the gateway failed", exc_info=True)
        return 1
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    return 0


class _Process:
    """One gateway from its listeners to its end."""

    def __init__(self, options: ServeOptions, strangers: list[str], early: list[int]) -> None:
        self._options = options
        self._strangers = strangers
        self._early = early
        self._gateway: Gateway | None = None
        self._problem: ConfigurationError | None = None

    async def run(self) -> None:
        """Serve; raises ConfigurationError, not in a group."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            if self._early:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, nursery)
                try:
                    async with open_listeners(self._options) as opened:
                        await self._serve(opened)
                except ConfigurationError as error:
                    self._problem = error
                nursery.cancel_scope.cancel()
        if self._problem is not None:
            raise self._problem

    async def _obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        leaving = False
        async for signum in signals:
            name = signal.Signals(signum).name
            if leaving or self._gateway is None:
                _log.info("stopping", signal=name)
                nursery.cancel_scope.cancel()
                return
            leaving = True
            _log.info("draining", signal=name, grace=self._options.drain.grace)
            nursery.start_soon(self._gateway.drain)

    async def _serve(self, opened: Opened) -> None:
        options = self._options
        made = None if options.api_token or not opened.local else secrets.token_urlsafe(24)
        settings = ApplicationSettings(
            api_token=options.api_token or made,
            strict_paths=options.strict_paths,
            heartbeat=options.heartbeat,
        )
        application = Application(MemoryBroker(), settings)
        gateway = application.gateway(
            opened.listeners,
            limits=options.limits,
            timeouts=options.timeouts,
            drain=options.drain,
            allowed_origins=options.allowed_origins,
        )
        async with trio.open_nursery() as nursery:
            self._gateway = await nursery.start(gateway.run)
            announce(
                f"listening on {' '.join(opened.urls)}",
                *([f"api token {made}"] if made else []),
            )
            _log.info(
                "serving",
                urls=opened.urls,
                pid=os.getpid(),
                store="memory",
                api="on" if settings.api_token else "off: give it a token",
                **raise_file_limit(),
            )
            if self._strangers:
                _log.warning("environment variables without a meaning", names=self._strangers)
        _log.info("stopped", upgrades=gateway.statistics().upgrades_accepted)


def announce(*lines: str) -> None:
    """Write lines to stdout; with nobody there to read them, they are lost and that is all."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except OSError:
        # What is buffered would fail again when Python exits, and change the exit status.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except AttributeError:
        pass  # None: started without a stdout


def raise_file_limit() -> dict[str, int]:
    """Raise this process's limit of open files as far as it may; return it, for the log."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _MOST_FILES) if hard == resource.RLIM_INFINITY else hard
    if soft not in (wanted, resource.RLIM_INFINITY):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return {"open_files": soft}
        return {"open_files": wanted, "open_files_before": soft}
    return {"open_files": soft}
