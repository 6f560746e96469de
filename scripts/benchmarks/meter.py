"""What a process and its descendants have used: CPU seconds and resident bytes, read from outside.

CPU is the kernel's own clock of the process, user and system time of every thread together: what
``/proc/PID/stat`` shows as utime + stime, in nanoseconds instead of ticks of ten milliseconds.
"""

import os
import time
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and every living descendant of it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """User and system seconds of the process tree, with the children that were waited for.

    Raises:
        ProcessLookupError: the process is gone.
    """
    if not Path(f"/proc/{pid}").exists():
        raise ProcessLookupError(f"process {pid} has ended")
    return sum(_clock(each) + _waited_for(each) for each in tree(pid))


def machine_seconds() -> float:
    """Seconds that all CPUs have worked, for whomever; what a hypervisor took counts too."""
    words = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, words)
    return (user + nice + system + irq + softirq + steal) * _TICK


def rss_bytes(pid: int) -> int:
    """Resident bytes of the process tree."""
    return sum(
        int(Path(f"/proc/{each}/statm").read_text().split()[1]) * _PAGE for each in tree(pid)
    )


def _clock(pid: int) -> float:
    # clock_getcpuclockid(3), which Python has for threads only: ~pid << 3 | CPUCLOCK_SCHED.
    return time.clock_gettime((~pid << 3) | 2)


def _waited_for(pid: int) -> float:
    # Fields 16 and 17, cutime and cstime, counted behind the name, which may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) * _TICK
