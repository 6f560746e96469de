"""Trio's scheduling order as a number that can be drawn, printed, replayed and shrunk.

Trio runs the tasks of a tick in random order. Hypothesis seeds the generator to the same value for
every example, so that without this all examples would run in one order.
"""

import random

import trio._core._run as trio_run
from hypothesis import register_random
from hypothesis import strategies as st

# pytest-trio does both too, but what is run without it shall replay as well.
register_random(trio_run._r)
trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # how Trio's plugin does it

orders: st.SearchStrategy[int] = st.integers(0, 2**16 - 1)


def schedule(order: int) -> None:
    """Let tasks run in this order from now on, and what the gateway leaves to chance replay."""
    trio_run._r.seed(order)
    random.seed(order)
