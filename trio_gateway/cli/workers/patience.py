"""How long a supervisor waits for what, stated once."""

import attrs


@attrs.frozen(kw_only=True)
class Patience:
    """How long what may take, in seconds.

    Attributes:
        first_retry: until a worker that died young is replaced; doubled each time.
        last_retry: the most.
        young: an age; who lived longer is replaced at once.
        deaths: young deaths in a row, all workers together, after which a supervisor that has no
            worker left gives up.
        start: for a worker to come up.
        end: beyond the grace period, before a worker is killed.
        answer: for a worker to answer a question.
        silence: of a worker, before it counts as hung and is killed.
    """

    first_retry: float = 0.1
    last_retry: float = 10.0
    young: float = 30.0
    deaths: int = 10
    start: float = 60.0
    end: float = 5.0
    answer: float = 3.0
    silence: float = 30.0

    def pause(self, deaths: int) -> float:
        """Return how long a worker is dead, after so many young deaths in a row."""
        if not deaths:
            return 0.0
        return min(self.first_retry * 2.0 ** (deaths - 1), self.last_retry)
