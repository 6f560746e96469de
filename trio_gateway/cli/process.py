"""The process of ``serve``: from options to an exit status.

In: options, and what another process or program has left in the environment. Out: a gateway, or the
supervisor of several; an exit status. The rule: from its first line on, a signal is noted and does
not end the process its own way.
"""

import os
import signal
from types import FrameType

import structlog
import trio

from trio_gateway.cli.logs import configure_logs
from trio_gateway.cli.notifying import Systemd
from trio_gateway.cli.options import ServeOptions
from trio_gateway.cli.workers.control import Channel
from trio_gateway.cli.workers.heritage import SIGNALS, Heritage
from trio_gateway.cli.workers.supervisor import Supervisor
from trio_gateway.errors import ConfigurationError

_ENDING = (signal.SIGTERM, signal.SIGINT)
_log = structlog.stdlib.get_logger("trio_gateway.cli")


def serve(options: ServeOptions, *, strangers: list[str]) -> int:
    """Serve until a signal; return the exit status.

    Arguments:
        options: what was asked for.
        strangers: environment variables that mean nothing, to be warned of.

    Raises:
        ConfigurationError: a certificate, a key or an address cannot be used; nothing was served.
    """
    early: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        if signum in _ENDING:
            early.append(signum)

    # Trio's receiver puts this handler back when it ends: a signal that comes before or after it
    # is noted and does not end the process its own way.
    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    configure_logs(json=options.json_logs)
    try:
        status = _serve(options, strangers, early)
    except ConfigurationError:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        raise
    except Exception:
        _log.critical("the gateway failed", exc_info=True)
        return 1
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    return status


def _serve(options: ServeOptions, strangers: list[str], early: list[int]) -> int:
    systemd = Systemd(os.environ)
    channel = Channel.inherited(os.environ)
    heritage = Heritage.take(os.environ)
    if heritage is None and (channel is not None or options.workers == 1):
        heritage = _run(options, strangers, systemd, channel, early)
        if heritage is None:
            return 0
        _become(heritage, systemd, early)
    while True:
        supervisor = Supervisor(
            options, heritage=heritage, strangers=strangers, systemd=systemd, early=early
        )
        trio.run(supervisor.run)
        heritage = supervisor.heritage
        if heritage is None:
            return supervisor.status
        _become(heritage, systemd, early)


def _run(
    options: ServeOptions,
    strangers: list[str],
    systemd: Systemd,
    channel: Channel | None,
    early: list[int],
) -> Heritage | None:
    """Be a gateway; return what it leaves to the next program in this process, if any."""
    # A supervisor carries no gateway.
    from trio_gateway.apps.identity import vouched_for
    from trio_gateway.cli.identity import open_authenticator
    from trio_gateway.cli.running import Running
    from trio_gateway.cli.workers.line import Line

    running = Running(
        options,
        open_authenticator(options) or vouched_for,
        strangers=strangers if channel is None else [],
        systemd=systemd,
        line=None if channel is None else Line(channel),
        early=early,
    )
    trio.run(running.run)
    return running.heritage


def _become(heritage: Heritage, systemd: Systemd, early: list[int]) -> None:
    """Become the program on the disk; where that cannot be, return, and this one goes on."""
    try:
        heritage.pass_on({**os.environ, **systemd.variables}, early)
    except OSError as error:
        _log.error("cannot start the program again; this one goes on", reason=str(error))
        early.clear()
