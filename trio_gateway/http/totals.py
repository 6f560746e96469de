"""Statistics as JSON, and those of several processes as one.

In: attrs instances. Out: JSON's values. The rules: what counts adds up; of what is largest, and of
what all see alike, it is the largest; a store is as well as the worst sees it. Buckets add up where
quantiles do not, so that these are worked out last.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import reduce
from typing import Any

import attrs

from trio_gateway.metrics import Distribution

_BUCKETS = {"bounds", "counts", "total"}
_SHARES = (0.5, 0.9, 0.99)
_RULES: Mapping[str, Callable[[Any, Any], Any]] = {
    "available": min,
    "started": min,
    "largest_outbox": max,
    "nodes": max,
}


def to_raw(value: Any) -> Any:
    """Return statistics as JSON has them; of a mapping with pairs as keys, mappings in a mapping.

    A distribution keeps its buckets, for ``add_up`` and ``present``.
    """
    if attrs.has(type(value)):
        return {name: to_raw(part) for name, part in attrs.asdict(value, recurse=False).items()}
    if isinstance(value, Mapping):
        told: dict[str, Any] = {}
        for key, part in value.items():
            first, *rest = key if isinstance(key, tuple) else (key,)
            place = told
            for step in rest:
                place = place.setdefault(str(first), {})
                first = step
            place[str(first)] = to_raw(part)
        return told
    return value.value if isinstance(value, Enum) else value


def add_up(raws: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return several processes' raw statistics as one; an empty mapping of none."""
    nothing: Mapping[str, Any] = {}
    return reduce(_add, raws, nothing)


def present(raw: Any) -> Any:
    """Return raw statistics as they are shown.

    A distribution is its count, sum and some quantiles, each the upper bound of a bucket: null
    where there were none, or above the last.
    """
    if not isinstance(raw, Mapping):
        return raw
    if set(raw) == _BUCKETS:
        distribution = Distribution(tuple(raw["bounds"]), tuple(raw["counts"]), raw["total"])
        quantiles = {str(share): _finite(distribution.quantile(share)) for share in _SHARES}
        return {"count": distribution.count, "sum": distribution.total, "quantiles": quantiles}
    return {name: present(part) for name, part in raw.items()}


def _add(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    total = dict(one)
    for name, value in other.items():
        total[name] = _combine(name, total[name], value) if name in total else value
    return total


def _combine(name: str, one: Any, other: Any) -> Any:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return _add(one, other)
    if name == "counts" and len(one) == len(other):
        return list(map(operator.add, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return _RULES.get(name, operator.add)(one, other)
    return one  # bounds and texts, which all have alike


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None
