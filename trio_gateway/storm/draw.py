"""Chance with a seed: the only source of it in a storm.

In: a seed and names. Out: numbers. The rule: all is made of ``random.Random(text).random()``, which
Python promises to keep from version to version; ``choice()`` and ``shuffle()`` it does not.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")
_DERIVATION = "trio-gateway-storm/1"


class Draw:
    """Numbers of one client.

    The generator is seeded with the text ``trio-gateway-storm/1/SEED/NAME/…``, so that a client's
    numbers depend on the seed and its own number alone: the first hundred clients of a storm are
    those of a storm of a hundred.

    Arguments:
        names: the seed, then what tells this generator from the others of the seed.
    """

    def __init__(self, *names: int | str) -> None:
        self._random = random.Random("/".join((_DERIVATION, *map(str, names))))

    def number(self, least: int, most: int) -> int:
        """Return a whole number from ``least`` to ``most``, both included."""
        return least + int(self._random.random() * (most - least + 1))

    def seconds(self, least: float, most: float) -> float:
        """Return a time of whole milliseconds."""
        return round(least + self._random.random() * (most - least), 3)

    def chance(self, probability: float) -> bool:
        """Return True so often."""
        return self._random.random() < probability

    def one_of(self, things: Sequence[_T]) -> _T:
        """Return one of them."""
        return things[self.number(0, len(things) - 1)]

    def octets(self, count: int) -> bytes:
        """Return bytes of every value."""
        return bytes(self.number(0, 255) for _ in range(count))

    def cuts(self, length: int, most: int = 4) -> tuple[int, ...]:
        """Return up to ``most`` places inside something of this length; often none."""
        if length < 2 or self.chance(0.5):
            return ()
        return tuple(sorted({self.number(1, length - 1) for _ in range(self.number(1, most))}))
