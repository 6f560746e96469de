"""The command line: ``python -m trio_gateway`` and ``trio-gateway``.

In: arguments, the environment. Out: an exit status: 0 for done, 1 for failed, 2 for wrong use. The
rule: wrong use is one line on stderr that says where and what, never a traceback.
"""

import sys
from collections.abc import Sequence

import click

import trio_gateway
from trio_gateway.cli import notify, serve, storm, verify
from trio_gateway.errors import ConfigurationError

_PROGRAM = "trio-gateway"


class _Program(click.Group):
    """A group of commands that serves when no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = ("--help", "--version")
        if not args or (args[0].startswith("-") and args[0] not in own):
            args.insert(0, "serve")
        return super().parse_args(ctx, args)


program = _Program(
    _PROGRAM,
    commands=[serve.command, verify.command, notify.command, storm.command],
    help="A WebSocket gateway: one port, one upgrade per socket, chat and notifications. Without "
    "a command it serves; `serve --help` tells the flags.",
    params=[],
)
program = click.version_option(trio_gateway.__version__, prog_name=_PROGRAM)(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status.

    Arguments:
        arguments: without the program's name; None for those of this process.
    """
    try:
        status = program.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        return _wrong_use(error.format_message())
    except ConfigurationError as error:
        return _wrong_use(str(error))
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0


def _wrong_use(message: str) -> int:
    one_line = " ".join(message.split())
    print(f"{_PROGRAM}: {one_line}", file=sys.stderr)
    return 2
