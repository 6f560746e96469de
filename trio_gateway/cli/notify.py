"""``notify``: send one notification through a gateway's HTTP API."""

import sys

import click
import h11
import trio

from trio_gateway.cli.remote import read_target, read_token, token_option
from trio_gateway.cli.sources import variable_of
from trio_gateway.cli.target import Answer, Target, explain
from trio_gateway.errors import ConfigurationError

_TIMEOUT = 10.0
_HELP = """Send USER a notification: TITLE, and perhaps a body.

Prints where it is stored and exits with 0; with 1, and a line on stderr, when the gateway cannot be
reached or does not take it.
"""


def _notify(user: str, title: str, body: str | None, url: str, token: str | None) -> int:
    target = read_target("--url", url)
    token = read_token(token)
    if token is None:
        raise ConfigurationError(
            f"the gateway's API token is needed: --token, or {variable_of('api-token')}"
        )
    notification = {"to": user, "title": title} | ({} if body is None else {"body": body})
    try:
        answer = trio.run(_post, target, notification, token)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError) as error:
        return _failed(f"{url}: {explain(error)}")
    position = answer.json()
    if answer.status != 201 or not isinstance(position, dict):
        return _failed(f"{url} answered {answer.describe()}")
    print(f"stored at {position.get('epoch')}:{position.get('offset')}")
    return 0


async def _post(target: Target, notification: dict[str, str], token: str) -> Answer:
    with trio.fail_after(_TIMEOUT):
        return await target.request("POST", "/api/notifications", body=notification, token=token)


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
