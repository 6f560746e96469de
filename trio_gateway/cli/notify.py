"""``notify``: send one notification through a gateway's HTTP API."""

import sys

import click
import trio

from trio_gateway.cli.remote import read_target, read_token, token_option
from trio_gateway.cli.sources import variable_of
from trio_gateway.client import (
    CommandRefused,
    NotAcknowledged,
    NotAGateway,
    Position,
    publish_notification,
)
from trio_gateway.errors import ConfigurationError

_TIMEOUT = 10.0
_ATTEMPTS = 3
_HELP = """Send USER a notification: TITLE, and perhaps a body.

Prints where it is stored and exits with 0; with 1, and a line on stderr, when the gateway cannot be
reached or does not take it.
"""


def _notify(user: str, title: str, body: str | None, url: str, token: str | None) -> int:
    read_target("--url", url)
    token = read_token(token)
    if token is None:
        raise ConfigurationError(
            f"the gateway's API token is needed: --token, or {variable_of('api-token')}"
        )
    try:
        position = trio.run(_publish, url, token, user, title, body)
    except CommandRefused as error:
        return _failed(f"{url} answered {error}")
    except NotAGateway as error:
        return _failed(f"{url} {error}")
    except NotAcknowledged as error:
        return _failed(f"{url}: {error.why}")
    print(f"stored at {position}")
    return 0


async def _publish(url: str, token: str, user: str, title: str, body: str | None) -> Position:
    return await publish_notification(
        url, token, to=user, title=title, body=body, within=_TIMEOUT, attempts=_ATTEMPTS
    )


def _failed(message: str) -> int:
    print(f"trio-gateway: not sent: {' '.join(message.split())}", file=sys.stderr)
    return 1


command = click.Command(
    "notify",
    callback=_notify,
    help=_HELP,
    short_help="Send a notification through a running gateway.",
    params=[
        click.Argument(["user"]),
        click.Argument(["title"]),
        click.Option(["--body"], metavar="TEXT", help="More text."),
        click.Option(
            ["--url"],
            metavar="URL",
            default="http://127.0.0.1:3000",
            envvar=variable_of("url"),
            show_envvar=True,
            show_default=True,
            help="Where the gateway is.",
        ),
        token_option(),
    ],
)
