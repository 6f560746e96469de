"""``storm``: seeded, shrinking, replayable storms against a live WebSocket server.

In: a URL and a seed, or a replay file. Out: progress and findings on stdout, a replay file and a
transcript for what was found; exit status 0 clean, 1 for a finding, 2 for wrong use. The rule:
another machine is stormed only where ``--i-own-this-server`` names it.
"""

import secrets
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from trio_gateway.cli.sources import variable_of
from trio_gateway.errors import ConfigurationError
from trio_gateway.storm.examine import Examiner, save
from trio_gateway.storm.faults import FAULTS
from trio_gateway.storm.faults.fault import Profile
from trio_gateway.storm.gauges import of_process
from trio_gateway.storm.generate import generate
from trio_gateway.storm.oracle import Bounds
from trio_gateway.storm.probe import NoUpgrade
from trio_gateway.storm.program import BadProgram, Program, loads
from trio_gateway.storm.progress import line, summary
from trio_gateway.storm.record import Finding, Recording
from trio_gateway.storm.report import Small, render, write
from trio_gateway.storm.run import run_storm
from trio_gateway.storm.server import DoesNotStart, Server
from trio_gateway.storm.shrink import Shrunk
from trio_gateway.storm.sockets import SocketNetwork, resolve
from trio_gateway.storm.target import BadTarget, Target
from trio_gateway.storm.transcript import tell
from trio_gateway.storm.transport import Unreachable

_MAX_CLIENTS = 100_000
_MAX_RATE = 20_000.0
_MAX_DURATION = 3600.0
_LINES_EVERY = 2.0
_COMMAND = ("python", "-m", "trio_gateway", "storm")
_HELP = """Storm the WebSocket server at URL with rude clients, and say what it does wrong.

The same seed makes the same storm. A finding is made small, where the server survives it or
--restart brings it back, and written as storm-SEED-RULE.json (for --replay) and .txt (for people),
in the present folder. Certificates are not checked. The exit status is 0 when nothing was found, 1
when something was, and 2 when the storm could not begin. Every flag is also an environment
variable, --seed TRIO_GATEWAY_STORM_SEED.
"""


@attrs.frozen(kw_only=True)
class _Options:
    url: str
    seed: int | None
    clients: int
    duration: float
    rate: float
    fault: tuple[str, ...]
    profile: Profile | None
    report: str | None
    replay: str | None
    restart: str | None
    pid: int | None
    i_own_this_server: str | None
    shrink: bool

    def again(self, program: Program) -> str:
        """Return the command that runs the same storm."""
        if self.replay is not None:
            return self.replaying(self.replay)
        words = [*_COMMAND, self.url, f"--seed={program.seed}"]
        words += [f"--clients={self.clients}", f"--duration={self.duration:g}"]
        words += [f"--rate={self.rate:g}", *(f"--fault={name}" for name in self.fault)]
        for flag, value in (
            ("profile", self.profile),
            ("restart", self.restart),
            ("i-own-this-server", self.i_own_this_server),
        ):
            words += [] if value is None else [f"--{flag}={value}"]
        return shlex.join(words)

    def replaying(self, file: str) -> str:
        """Return the command that runs the storm of a file."""
        owned = self.i_own_this_server
        mine = [] if owned is None else [f"--i-own-this-server={owned}"]
        return shlex.join([*_COMMAND, self.url, "--replay", file, *mine])


def _storm(*, list_faults: bool, url: str | None, **given: object) -> int:
    if list_faults:
        return _list_faults()
    if url is None:
        raise ConfigurationError("URL is missing: ws://HOST:PORT/ of a server on this machine")
    options = _Options(url=url, **given)  # type: ignore[arg-type]  # click has seen to the types
    if options.report is not None and not Path(options.report).absolute().parent.is_dir():
        raise ConfigurationError(f"--report {options.report}: there is no such folder")
    try:
        target = Target.parse(url, owned=options.i_own_this_server)
    except BadTarget as error:
        raise ConfigurationError(f"URL: {error}") from None
    program = _program(options, target)
    try:
        return trio.run(_run, options, target, program)
    except KeyboardInterrupt:
        return 130


def _list_faults() -> int:
    for fault in FAULTS.values():
        needs = {"tls": " (wss:// only)", "restart": " (with --restart only)"}.get(
            fault.needs or "", ""
        )
        print(f"{fault.name}{needs}\n    {fault.stands_for}")
        for allowed in fault.allowed:
            whose = "" if allowed.profile is None else f" [{allowed.profile}]"
            print(f"      {allowed.outcome:16} {allowed.why}{whose}")
    return 0


def _program(options: _Options, target: Target) -> Program:
    if options.replay is not None:
        try:
            return loads(Path(options.replay).read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            if isinstance(error, UnicodeError) and not isinstance(error, BadProgram):
                why = "this is no storm: not ASCII"
            raise ConfigurationError(f"--replay {options.replay}: {why}") from None
    has = {name for name, there in (("tls", target.secure), ("restart", options.restart)) if there}
    for name in options.fault:
        needs = FAULTS[name].needs
        if needs is not None and needs not in has:
            what = {"tls": "a wss:// URL", "restart": "--restart"}[needs]
            raise ConfigurationError(f"--fault {name} needs {what}")
    return generate(
        secrets.randbelow(2**32) if options.seed is None else options.seed,
        clients=options.clients,
        duration=options.duration,
        rate=options.rate,
        faults=options.fault,
        has=has,
    )


async def _run(options: _Options, target: Target, program: Program) -> int:
    server: Server | None = None
    try:
        network = await resolve(target.host, target.port, tls=target.secure)
        if options.restart is not None:
            server = Server(options.restart, network)
            if not await server.accepts():
                await server.restart()
        return await _blow(options, target, program, network, server)
    except (Unreachable, NoUpgrade, DoesNotStart, trio.TooSlowError) as error:
        why = str(error) or "no answer in time"
        print(f"trio-gateway: no storm: {target.url}: {why}", file=sys.stderr)
        return 2
    finally:
        if server is not None:
            await server.stop()


async def _blow(
    options: _Options,
    target: Target,
    program: Program,
    network: SocketNetwork,
    server: Server | None,
) -> int:
    print(f"seed {program.seed}, {len(program.scripts)} clients, {program.steps} steps", flush=True)
    examiner = Examiner(
        target=target,
        network=network,
        server=server,
        bounds=Bounds(),
        gauges=[] if options.pid is None else [of_process(options.pid)],
        profile=options.profile,
    )
    terminal = sys.stdout.isatty()
    recording = await run_storm(
        target,
        program,
        network=network,
        bounds=examiner.bounds,
        profile=options.profile,
        gauges=examiner.gauges,
        server=server,
        watch=partial(_watch, _Shown(), terminal),
        apart=True,
    )
    if terminal:
        print("\r\x1b[K", end="")
    for each in summary(recording):
        print(each)
    small: dict[str, Small] = {}
    if not recording.clean and options.replay is None:
        print(f"again: {options.again(program)}", flush=True)
        small = await _examine(options, examiner, program, recording)
    _report(options, program, recording, small)
    return 0 if recording.clean else 1


def _report(
    options: _Options, program: Program, recording: Recording, small: dict[str, Small]
) -> None:
    if options.report is None:
        return
    page = render(recording, command=options.again(program), program=program, small=small)
    try:
        write(Path(options.report), page)
    except OSError as error:
        raise ConfigurationError(f"--report {options.report}: {error.strerror}") from None
    print(f"report: {options.report}")


async def _examine(
    options: _Options, examiner: Examiner, program: Program, recording: Recording
) -> dict[str, Small]:
    """Make a finding of each rule small, and write it down; return each by its rule.

    That is the first that a client of the storm has seen, else the first.
    """
    told: dict[str, Small] = {}
    first: dict[str, Finding] = {}
    for finding in sorted(recording.findings, key=lambda each: each.client is None):
        first.setdefault(finding.rule, finding)
    for finding in first.values():
        shrunk = Shrunk(program, tries=0, reproduced=False)
        if options.shrink:
            print(f"shrinking {finding.rule} …", flush=True)
            shrunk = await examiner.shrink(program, recording, finding)
        try:
            replay, words = save(Path(), program, shrunk, finding)
        except OSError as error:
            raise ConfigurationError(f"{error.filename}: {error.strerror}") from None
        small = shrunk.program
        if shrunk.reproduced:
            print(
                f"  {len(program.scripts)} clients became {len(small.scripts)}, {program.steps}"
                f" steps {small.steps}, {program.sent_bytes} bytes {small.sent_bytes},"
                f" in {shrunk.tries} tries"
            )
        elif options.shrink:
            print("  it did not happen again; the storm is written as it was run")
        command = options.replaying(str(replay))
        print(f"  {command}   # told in {words}")
        told[finding.rule] = Small(
            command=command,
            lines=tuple(tell(small)),
            about=f"from {len(program.scripts)} clients to {len(small.scripts)}",
        )
    return told


@attrs.define
class _Shown:
    at: float = 0.0


def _watch(shown: _Shown, terminal: bool, recording: Recording) -> None:
    if terminal:
        print(f"\r\x1b[K{line(recording)}", end="", flush=True)
    elif time.monotonic() - shown.at > _LINES_EVERY:
        shown.at = time.monotonic()
        print(line(recording), flush=True)


def _flag(name: str, **attributes: Any) -> click.Option:
    """Return a flag that is a variable too, ``TRIO_GATEWAY_STORM_NAME``, none of ``serve``'s."""
    variable = variable_of("storm-" + name.partition("/")[0].removeprefix("--"))
    return click.Option([name], envvar=variable, **attributes)


def _number(name: str, default: float, most: float, metavar: str, help: str) -> click.Option:
    return _flag(
        name,
        type=click.FloatRange(min=0, min_open=True, max=most),
        default=default,
        show_default=True,
        metavar=metavar,
        help=help,
    )


command = click.Command(
    "storm",
    callback=_storm,
    help=_HELP,
    short_help="Storm a WebSocket server with rude clients.",
    params=[
        click.Argument(["url"], required=False),
        _flag(
            "--seed",
            type=click.IntRange(min=0),
            metavar="N",
            help="Which storm; a new one each time without it.",
        ),
        _flag(
            "--clients",
            type=click.IntRange(1, _MAX_CLIENTS),
            default=200,
            show_default=True,
            metavar="N",
            help="How many.",
        ),
        _number(
            "--duration", 10.0, _MAX_DURATION, "SECONDS", "Seconds in which the clients start."
        ),
        _number("--rate", 2000.0, _MAX_RATE, "N", "Connects a second, at most."),
        _flag(
            "--fault",
            type=click.Choice(list(FAULTS)),
            multiple=True,
            metavar="NAME",
            help="Only clients of this fault (and good ones); may be given again.",
        ),
        click.Option(["--list-faults"], is_flag=True, help="Tell all faults, and end."),
        _flag(
            "--profile",
            type=click.Choice(["any", "gateway"]),
            help="What the server promises: RFC 6455 alone, or what this gateway does. Found out "
            "without it.",
        ),
        _flag(
            "--report",
            metavar="FILE.html",
            help="Write a page with plots over time, the findings, and how to repeat it.",
        ),
        _flag("--replay", metavar="FILE.json", help="Run the storm of a file instead of a seed's."),
        _flag(
            "--restart",
            metavar="COMMAND",
            help="A shell command that starts the server; run when it is not there or has died.",
        ),
        _flag(
            "--pid",
            type=click.IntRange(min=1),
            metavar="PID",
            help="The server's process, whose descriptors and memory must come back.",
        ),
        _flag(
            "--i-own-this-server",
            metavar="HOST",
            help="The URL's host, when it is not this machine and yours to storm.",
        ),
        _flag(
            "--shrink/--no-shrink",
            default=True,
            show_default=True,
            help="Make findings small, which runs storms again.",
        ),
    ],
)
