"""What a start prints, and what it asks of the system.

In: where it listens. Out: on stdout one line that says so, the API token where one was made, the
store where there is a file. The rule: a start works with nobody there to read it.
"""

import os
import resource
import sys
from collections.abc import Iterable

_MOST_FILES = 2**20  # asked for where the system names no limit


def announce(urls: Iterable[str], made: str | None, store: str) -> None:
    """Write the start lines.

    Arguments:
        urls: where it listens.
        made: the API token, if it was made here.
        store: its name.
    """
    _write(
        f"listening on {' '.join(urls)}",
        *([f"api token {made}"] if made else []),
        *([f"store {store}"] if store != "memory" else []),
    )


def _write(*lines: str) -> None:
    """Write lines to stdout; with nobody there to read them, they are lost and that is all."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except OSError:
        # What is buffered would fail again when Python exits, and change the exit status.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except AttributeError:
        pass  # None: started without a stdout


def raise_file_limit() -> dict[str, int]:
    """Raise this process's limit of open files as far as it may; return it, for the log."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _MOST_FILES) if hard == resource.RLIM_INFINITY else hard
    if soft not in (wanted, resource.RLIM_INFINITY):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return {"open_files": soft}
        return {"open_files": wanted, "open_files_before": soft}
    return {"open_files": soft}
