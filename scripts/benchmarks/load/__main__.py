"""``python -m benchmarks.load JOB…``: do one job, or several of a kind that take turns.

Prints a line of figures for each, or one line on stderr.
"""

import signal
import sys
from types import FrameType

from ..job import Job
from .bystander import bystander
from .echo import echo
from .fanout import fanout
from .handshakes import handshake, refusal
from .holding import half_open, idle
from .rooms import rooms
from .stalled import stalled
from .unread import unread, workers

LOADS = {
    "bystander": bystander,
    "echo": echo,
    "fanout": fanout,
    "half_open": half_open,
    "handshake": handshake,
    "idle": idle,
    "refusal": refusal,
    "rooms": rooms,
    "stalled": stalled,
}
TAKING_TURNS = {
    "unread": unread,
    "workers": workers,
}


def main() -> int:
    jobs = [Job.from_json(argument) for argument in sys.argv[1:]]
    limit = sum(job.limit for job in jobs)

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not finished within {limit:g} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        if jobs[0].kind in TAKING_TURNS:
            figures = TAKING_TURNS[jobs[0].kind](jobs)
        else:
            figures = [LOADS[job.kind](job) for job in jobs]
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    for each in figures:
        print(each.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
