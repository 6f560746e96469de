"""``scripts/bench``: read the flags, run the plan, print the table."""

import argparse
import json
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .chart import draw
from .packages import make_folder
from .run import Plan, Run, stop_on_signals
from .servers import SERVERS
from .table import document, render
from .workloads import WORKLOADS, Workload


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


def main() -> int:
    arguments = _parser().parse_args()
    if not sys.platform.startswith("linux"):
        print("scripts/bench reads /proc and uses epoll: Linux only", file=sys.stderr)
        return 2
    # Ten thousand connections need as many descriptors, here and in the servers, which inherit it.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run = Run(_plan(arguments))
    make_folder()
    stop_on_signals()
    interrupted = False
    try:
        run.prepare()
        run.measure()
    except KeyboardInterrupt:
        interrupted = True
    print(render(run))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document(run), indent=1) + "\n")
    if arguments.chart is not None:
        arguments.chart.write_text(draw(run))
    if interrupted:
        return 130
    return int(any(cell.server.ours and cell.failure for cell in run.cells))


def _plan(arguments: argparse.Namespace) -> Plan:
    quick: bool = arguments.quick
    return Plan(
        servers=[
            each for each in SERVERS if arguments.servers is None or each.key in arguments.servers
        ],
        workloads=_asked(arguments.only, full=arguments.full),
        brief=not arguments.full and arguments.servers is None,
        rounds=arguments.rounds or (1 if quick else None),
        seconds=arguments.seconds or (0.5 if quick else 1.2),
        warmup=0.2 if quick else 0.3,
        quick=quick,
        install=not arguments.no_install,
    )


def _asked(keys: list[str] | None, *, full: bool) -> list[Workload]:
    """The workloads named, by themselves or by family.

    Of a family those for --full are left out without it, unless all of it is for --full.
    """
    usual = [each for each in WORKLOADS if full or not each.full]
    if keys is None:
        return usual
    partly = {_family(each) for each in usual}
    return [
        each
        for each in WORKLOADS
        if each.key in keys
        or (_family(each) in keys and (each in usual or _family(each) not in partly))
    ]


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError("more than 0 and at most 60")
    return value


def _names(everything: Sequence[_Keyed]) -> str:
    return ", ".join(each.key for each in everything)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="What trio_gateway costs beside its peers: server CPU per operation, memory per"
        " connection, latencies; medians of interleaved rounds, in one table.",
        epilog="Everything runs on 127.0.0.1. Peers that are not in the environment are installed"
        " into .bench/, which may be deleted.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument(
        "--full",
        action="store_true",
        help="every workload on every server: an hour",
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the ratios")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORKLOAD",
        choices=[*(each.key for each in WORKLOADS), *_families()],
        help=f"{_names(WORKLOADS)}; or a family of them: {', '.join(_families())}",
    )
    parser.add_argument(
        "--servers",
        nargs="+",
        metavar="SERVER",
        choices=[each.key for each in SERVERS],
        help=_names(SERVERS),
    )
    parser.add_argument(
        "--rounds", type=int, choices=range(1, 21), metavar="N", help="default 1 to 3"
    )
    parser.add_argument(
        "--seconds", type=_positive, metavar="S", help="of each timed measurement, default 1.2"
    )
    parser.add_argument(
        "--no-install", action="store_true", help="leave out the peers that are not installed yet"
    )
    return parser


def _family(workload: Workload) -> str:
    return workload.key.partition("-")[0]


def _families() -> list[str]:
    counts = Counter(map(_family, WORKLOADS))
    keys = {each.key for each in WORKLOADS}
    return [family for family, count in counts.items() if count > 1 and family not in keys]


if __name__ == "__main__":
    sys.exit(main())
