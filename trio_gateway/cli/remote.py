"""What ``notify`` and ``verify`` share: which gateway, and the token it wants."""

import click

from trio_gateway.cli.flags import API_TOKEN
from trio_gateway.cli.kinds import BadValue
from trio_gateway.cli.sources import variable_of
from trio_gateway.client.target import Target
from trio_gateway.errors import ConfigurationError


def token_option() -> click.Option:
    """Return ``--token``, which is also the variable of ``serve --api-token``."""
    return click.Option(
        ["--token"],
        metavar="TOKEN",
        envvar=variable_of("api-token"),
        show_envvar=True,
        help="The gateway's API token.",
    )


def read_target(origin: str, url: str) -> Target:
    """Return where the gateway is; raises ConfigurationError, naming ``origin``."""
    try:
        return Target.parse(url)
    except ValueError as error:
        raise ConfigurationError(f"{origin}: {error}") from None


def read_token(token: str | None) -> str | None:
    """Return the token, None for none; raises ConfigurationError for one that cannot be sent."""
    if not token:
        return None
    try:
        return API_TOKEN.read(token)
    except BadValue as error:
        raise ConfigurationError(f"the API token {error}") from None
