"""Logs of ``serve``: structlog and the standard library's logging, as one stream on stderr.

In: records of either. Out: a line each, for people or in JSON, with whose connection it is about.
The rules: logging never ends or fails the gateway, whatever happens to stderr; a storm of one line
is a sum; what looks like a token is not written, whoever logged it.
"""

import atexit
import logging
import re
import sys
from collections.abc import MutableMapping
from functools import partial
from typing import Any

import structlog

from trio_gateway.logs import Throttle, connection_fields

_TOKENS = re.compile(
    r"""(?ix) ( bearer [\s,]+ | token ["']? \s* [=:] \s* ["']? ) [^\s"'&,;]+
    | eyJ [\w-]+ \. [\w-]+ \. [\w-]*  # a JWT"""
)


def add_connection(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Add what is known of the connection that the logging task serves; a processor."""
    for name, value in connection_fields().items():
        event.setdefault(name, value)
    return event


def hide_tokens(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Take what looks like a token out of all texts; a processor."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _TOKENS.sub(lambda found: f"{found[1] or ''}[hidden]", value)
    return event


_SHARED: list[Any] = [
    add_connection,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logs(*, json: bool) -> None:
    """Send every record of this process to stderr, from ``INFO`` on, others' from ``WARNING`` on.

    Arguments:
        json: one JSON object a line, with ``event``, ``level``, ``logger``, ``timestamp`` and, for
            a failure, ``exception``; about a connection ``connection``, ``client``, ``route`` and
            ``user``.
    """
    handler = logging.StreamHandler(sys.stderr)
    throttle = Throttle()
    handler.addFilter(throttle)
    atexit.register(partial(throttle.summarise, of_now=True))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_SHARED],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                hide_tokens,
                *(_json() if json else _console()),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("trio_gateway").setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a full disk behind stderr is no news for stderr
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _json() -> list[Any]:
    return [structlog.processors.JSONRenderer(ensure_ascii=False)]


def _console() -> list[Any]:
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr is not None and sys.stderr.isatty())]
