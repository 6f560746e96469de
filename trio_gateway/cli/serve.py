"""``serve``: flags, variables and a file in, a gateway until a signal."""

import os
from typing import Any

import click

from trio_gateway.cli.flags import SETTINGS
from trio_gateway.cli.options import serve_options
from trio_gateway.cli.sources import unknown_variables, variable_of

_HELP = f"""Run the gateway: chat, notifications and their HTTP API, on one port.

Every flag but --config is also an environment variable ({variable_of("max-connections")} for
--max-connections) and a key of the TOML file (max-connections). The flag beats the variable, the
variable beats the file.

Prints one line when it accepts connections: listening on URL. Where it listens on loopback only and
has no API token, it makes one and prints it in a second line: api token TOKEN. Logs go to stderr.

SIGTERM and SIGINT drain: clients are told to come back, new ones are refused. A second signal stops
at once. The exit status is 0 after both, 2 when something here is wrong. SIGHUP reads the
certificate again; with --workers it replaces the workers, one after the other. SIGUSR2 hands over
to the program as it is on the disk now, in the same process and without refusing anybody.
"""


def _serve(**flags: Any) -> int:
    options = serve_options(flags, os.environ)
    from trio_gateway.cli.process import serve  # wrong use is told without loading a gateway

    # What the other commands have for themselves means something too.
    strangers = [
        name
        for name in unknown_variables(SETTINGS, os.environ, known=("config", "url"))
        if not name.startswith(variable_of("storm-"))
    ]
    return serve(options, strangers=strangers)


command = click.Command(
    "serve",
    callback=_serve,
    help=_HELP,
    short_help="Run the gateway; what happens without a command.",
    params=[
        click.Option(
            ["--config"],
            metavar="FILE.toml",
            help=f"A TOML file of settings; {variable_of('config')} names it too.",
        ),
        *(setting.option() for setting in SETTINGS),
    ],
)
