"""The metrics of several workers, added up."""

import pytest

from trio_gateway.http.summing import add_up


@pytest.mark.parametrize(
    "kind, name, expected",
    [
        ("counter", "closes_total", 5),
        ("gauge", "connections", 5),
        ("gauge", "loop_lag_seconds", 3),
        ("gauge", "largest_outbox_largest_bytes", 3),
        ("gauge", "python_info", 3),
        ("gauge", "store_available", 2),
        ("untyped", "anything", 5),
    ],
)
def test_rules(kind: str, name: str, expected: int) -> None:
    """What counts adds up; an age, a lag, a largest and an info do not; the worst store counts."""
    head = f"# HELP {name} what it is\n# TYPE {name} {kind}\n"
    texts = [f'{head}{name}{{a="x y"}} {value}\n' for value in (2, 3.0)]
    assert f'{head}{name}{{a="x y"}} {expected}\n' == add_up(texts)


def test_what_all_stores_see_alike() -> None:
    """Nodes are the same ones for each worker; what each has sent adds up."""
    text = (
        "# TYPE trio_gateway_store gauge\n"
        'trio_gateway_store{number="available"} %d\n'
        'trio_gateway_store{number="commands"} 5\n'
        'trio_gateway_store{number="nodes"} 2\n'
    )
    lines = add_up([text % 1, text % 0]).splitlines()
    assert ["0", "10", "2"] == [line.split()[-1] for line in lines[1:]]


def test_a_histogram() -> None:
    """Its buckets, sum and count stay one family."""
    text = (
        "# TYPE h histogram\n"
        'h_bucket{le="0.1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 0.25\nh_count 2\n'
        "# TYPE c counter\nc 1\n"
    )
    doubled = (
        "# TYPE h histogram\n"
        'h_bucket{le="0.1"} 2\nh_bucket{le="+Inf"} 4\nh_sum 0.5\nh_count 4\n'
        "# TYPE c counter\nc 2\n"
    )
    assert doubled == add_up([text, text])


def test_families_that_one_alone_has() -> None:
    """A label that one worker has met is in the sum, and nothing is there twice."""
    one = '# TYPE closes counter\ncloses{code="1000"} 1\n# TYPE x gauge\nx 1\n'
    other = '# TYPE closes counter\ncloses{code="1012"} 4\n'
    assert (
        '# TYPE closes counter\ncloses{code="1000"} 1\ncloses{code="1012"} 4\n# TYPE x gauge\nx 1\n'
    ) == add_up([one, other])


def test_what_is_no_number() -> None:
    """NaN and the infinities are written as Prometheus reads them; anything else is passed over."""
    assert "a NaN\nb +Inf\nc -Inf\n" == add_up(["a NaN\nb Inf\nc -Inf\nd x\n\n# a comment\n"])


def test_nobody() -> None:
    """No worker, no metrics."""
    assert "" == add_up([])
