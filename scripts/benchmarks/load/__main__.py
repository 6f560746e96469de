"""``python -m benchmarks.load JOB``: do one job, print its figures, or one line on stderr."""

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


def main() -> int:
    job = Job.from_json(sys.argv[1])

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not finished within {job.limit:g} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, job.limit)
    try:
        figures = LOADS[job.kind](job)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(figures.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
