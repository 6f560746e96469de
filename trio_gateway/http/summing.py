"""The metrics of all workers as one: the Prometheus text format, added up.

In: what each worker would answer to ``GET /metrics``. Out: one text of the same families. The
rules: counters, histograms and gauges are sums; a gauge of seconds, of what is largest, or that is
there for its labels is the largest, because ages and lags do not add up; one that says 1 for well
(``…_available``, ``…_up``) is the smallest. A store's numbers are told apart by their label.
"""

import math
import re
from collections.abc import Callable, Iterable

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{.*\})?) (\S+)(?: -?[0-9]+)?")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_Rule = Callable[[float, float], float]
_ODD_SAMPLES: dict[str, _Rule] = {
    # All see the same nodes.
    'trio_gateway_store{number="nodes"}': max,
    'trio_gateway_store{number="available"}': min,
}


def add_up(texts: Iterable[str]) -> str:
    """Return the sum of texts, families and samples in the order in which they first came."""
    heads: dict[str, dict[str, str]] = {}
    families: dict[str, dict[str, float]] = {}
    rules: dict[str, _Rule] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith(("# TYPE ", "# HELP ")):
                _, word, family, *rest = line.split(" ", 3)
                heads.setdefault(family, {}).setdefault(word, line)
                families.setdefault(family, {})
                if word == "TYPE":
                    rules[family] = _rule(family, " ".join(rest))
            elif found := _SAMPLE.fullmatch(line):
                name = _NAME.match(found[1])
                assert name is not None
                if not (family and name[0].startswith(family)):
                    family = name[0]
                _add(families.setdefault(family, {}), found, rules.get(family, _plus))
    lines: list[str] = []
    for family, samples in families.items():
        lines += heads.get(family, {}).values()
        lines += (f"{name} {_number(value)}" for name, value in samples.items())
    return "".join(f"{line}\n" for line in lines)


def _add(samples: dict[str, float], found: re.Match[str], rule: _Rule) -> None:
    try:
        value = float(found[2])
    except ValueError:
        return
    name = found[1]
    rule = _ODD_SAMPLES.get(name, rule)
    samples[name] = rule(samples[name], value) if name in samples else value


def _rule(family: str, kind: str) -> _Rule:
    if kind == "gauge" and (family.endswith(("_seconds", "_info")) or "_largest_" in family):
        return max
    if kind == "gauge" and family.endswith(("_available", "_up")):
        return min
    return _plus


def _plus(one: float, other: float) -> float:
    return one + other


def _number(value: float) -> str:
    if not math.isfinite(value):
        return {"inf": "+Inf", "-inf": "-Inf"}.get(str(value), "NaN")
    return str(int(value)) if value == int(value) else repr(value)
