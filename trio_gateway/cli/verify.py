"""``verify``: the checklist of a working gateway, run on a live one."""

import secrets
import sys

import click
import trio

from trio_gateway.cli.checklist.order import CHECKS
from trio_gateway.cli.checklist.probe import Check, Site, Skipped, reason
from trio_gateway.cli.remote import read_target, read_token, token_option
from trio_gateway.client.target import Target, explain

_CONNECT_TIMEOUT = 10.0
_HELP = """Run the checklist of a working gateway on the live one at URL, one line a check.

Each line begins with ok, FAIL or skip. The exit status is 1 if any check fails or nothing can be
reached at URL, and 2 if URL is none. What needs the HTTP API is skipped without the gateway's API
token. Only URL is contacted; rooms and users have names of this run alone.
"""


def _verify(url: str, token: str | None, timeout: float) -> int:
    site = Site(read_target("URL", url), read_token(token), secrets.token_hex(4))
    return trio.run(_run, site, timeout)


async def _run(site: Site, seconds: float) -> int:
    problem = await _unreachable(site.target)
    if problem is not None:
        print(f"trio-gateway: {site.target.url}: {problem}", file=sys.stderr)
        return 1
    width = max(len(check.name) for check in CHECKS)
    deadline = trio.current_time() + seconds
    failed = 0
    for check in CHECKS:
        verdict, detail = await make(check, site, deadline)
        failed += verdict == "FAIL"
        print(f"{verdict:4} {check.name:{width}}  {' '.join(detail.split())}", flush=True)
    return 1 if failed else 0


async def _unreachable(target: Target) -> str | None:
    """Return why there is no connection at all, or None."""
    try:
        with trio.fail_after(_CONNECT_TIMEOUT):
            await trio.aclose_forcefully(await target.open_stream())
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        return explain(error)
    return None


async def make(check: Check, site: Site, deadline: float) -> tuple[str, str]:
    """Make one check; whatever goes wrong in it is its failure and stops no other."""
    seconds = min(check.timeout, deadline - trio.current_time())
    if seconds <= 0:
        return "FAIL", "not made: the time is up"
    try:
        with trio.fail_after(seconds):
            return "ok", await check.run(site)
    except Skipped as skipped:
        return "skip", f"skipped: {skipped}"
    except Exception as error:
        return "FAIL", reason(error)


command = click.Command(
    "verify",
    callback=_verify,
    help=_HELP,
    short_help="Run the checklist of a working gateway on a live one.",
    params=[
        click.Argument(["url"]),
        token_option(),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="For all checks together.",
        ),
    ],
)
