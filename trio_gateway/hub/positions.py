"""Positions in a topic's history: sans-I/O values.

In: ``EPOCH:OFFSET`` as a client sends it. Out: a value that compares. The rule: offsets of one
(topic, epoch) rise by one, and the epoch changes exactly when history was lost.
"""

import re
from typing import Self

import attrs

_TEXT = re.compile(r"([0-9A-Za-z_-]{1,64}):([0-9]{1,18})", re.ASCII)


@attrs.frozen
class Position:
    """A place in a topic: everything up to and with ``offset`` has been seen.

    Attributes:
        epoch: names one unbroken history.
        offset: of the newest publication seen; 0 before the first.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``EPOCH:OFFSET``; raises ValueError with a sentence for the client."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("a position is EPOCH:OFFSET, as the server gave it")
        return cls(match[1], int(match[2]))
