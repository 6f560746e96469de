"""``storm``: the fuzzer of live gateways, which this build does not have."""

import click

from trio_gateway.cli.options import NOT_IN_THIS_BUILD
from trio_gateway.errors import ConfigurationError


def _storm(arguments: tuple[str, ...]) -> int:
    raise ConfigurationError(f"storm is {NOT_IN_THIS_BUILD}")


command = click.Command(
    "storm",
    callback=_storm,
    params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,
    short_help="Not in this build.",
    hidden=True,
)
