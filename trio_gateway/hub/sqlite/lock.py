"""One gateway a file: a lock beside the database that ends with the process.

In: the database's path. Out: the lock, or a sentence about who has it. The rule: the file of the
lock stays when the lock goes, since taking it away would let two processes lock two files.
"""

import fcntl
import os

from trio_gateway.hub.sqlite.schema import Unusable


class FileLock:
    """An exclusive lock on ``PATH-lock``.

    Raises:
        Unusable: another process has it, or the folder cannot be written.
    """

    def __init__(self, path: str) -> None:
        try:
            self._file = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unusable(f"{path}-lock: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            whose = f" (process {owner})" if owner else ""
            raise Unusable(f"another gateway{whose} has it open; one file serves one") from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._file)
