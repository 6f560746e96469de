"""Token buckets: what they let through, and that nothing of them stays behind."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.buckets import Bucket, Buckets, Rate

# Powers of two: what a float says of them is exact, and so is the model.
STEPS = st.lists(st.tuples(st.integers(0, 64), st.integers(1, 8)), max_size=80)
RATES = st.tuples(st.sampled_from([1, 2, 8, 64]), st.integers(1, 16))


class Model:
    """A bucket as one draws it: tokens, and a clock."""

    def __init__(self, per_second: int, burst: int) -> None:
        self.per_second = per_second
        self.burst = burst
        self.tokens = Fraction(burst)
        self.at = Fraction(0)

    def refill(self, now: Fraction) -> None:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.per_second)
        self.at = now

    def wait(self) -> Fraction:
        return max(Fraction(0), (1 - self.tokens) / self.per_second)


@given(RATES, STEPS)
def test_a_bucket_is_as_one_draws_it(rate: tuple[int, int], steps: list[tuple[int, int]]) -> None:
    """It gives exactly when a token is there, and else says exactly when one will be."""
    bucket, model = Bucket(Rate(*rate)), Model(*rate)
    now = Fraction(0)
    for sixteenths, _ in steps:
        now += Fraction(sixteenths, 16)
        model.refill(now)
        wait = model.wait()
        if not wait:
            model.tokens -= 1
        assert float(wait) == bucket.take(float(now))


@given(RATES, STEPS)
def test_a_debt_is_paid_in_time(rate: tuple[int, int], steps: list[tuple[int, int]]) -> None:
    """What is spent is spent; the time until the debt is paid is exact."""
    bucket, model = Bucket(Rate(*rate)), Model(*rate)
    now = Fraction(0)
    for sixteenths, amount in steps:
        now += Fraction(sixteenths, 16)
        model.refill(now)
        model.tokens -= amount
        debt = max(Fraction(0), -model.tokens / model.per_second)
        assert float(debt) == bucket.spend(float(now), amount)


@given(RATES, st.lists(st.tuples(st.integers(0, 64), st.sampled_from("abcd")), max_size=80))
def test_names_do_not_share(rate: tuple[int, int], steps: list[tuple[int, str]]) -> None:
    """Each name has a bucket of its own."""
    buckets, alone = Buckets(Rate(*rate)), {name: Bucket(Rate(*rate)) for name in "abcd"}
    now = 0.0
    for sixteenths, name in steps:
        now += sixteenths / 16
        assert alone[name].take(now) == buckets.take(name, now)


@given(st.integers(1, 40), st.integers(1, 4))
def test_full_buckets_are_forgotten(gap: int, burst: int) -> None:
    """However many names come by, only those of the last moments are remembered."""
    buckets = Buckets(Rate(1.0, burst))
    for number in range(5_000):
        now = number / gap
        assert 0 == buckets.take(f"user {number}", now)
        assert len(buckets) <= max(1024, 2 * gap * burst + 2)


def test_forgetting_changes_nothing() -> None:
    """A bucket that is not full survives the sweep."""
    buckets = Buckets(Rate(1.0, 2.0))
    assert (0, 0) == (buckets.take("ann", 0.5), buckets.take("ann", 0.5))
    for number in range(3_000):
        buckets.take(f"user {number}", 0.5 + number / 1e6)
    assert 0.5 == pytest.approx(buckets.take("ann", 1.0))


def test_one_may_always_be_taken() -> None:
    """A rate of less than one in its burst lets one through, and the next when it is time."""
    bucket = Bucket(Rate(0.25, 0.5))
    assert (0, 4) == (bucket.take(10.0), bucket.take(10.0))
    assert 0 == bucket.take(14.0)


def test_rounding_refuses_nobody() -> None:
    """Who waits for as long as it was told gets through, on a clock that has run for months."""
    bucket, now = Bucket(Rate(3.0, 1.0)), 1e7
    for _ in range(1_000):
        assert 0 == bucket.take(now)
        now += bucket.take(now)


@pytest.mark.parametrize("per_second", [0, -1])
def test_a_rate_is_positive(per_second: float) -> None:
    """A bucket that never fills is no limit but a wall."""
    with pytest.raises(ValueError, match="per_second"):
        Rate(per_second, 1)
