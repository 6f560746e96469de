"""Settings: every default can be meant, and what cannot is told where it is said."""

import math
from typing import Any

import attrs
import pytest

from trio_gateway.settings import (
    Compression,
    Drain,
    Heartbeat,
    Limits,
    Proxies,
    Rates,
    Timeouts,
)

CLASSES: list[type[Any]] = [Limits, Rates, Proxies, Timeouts, Heartbeat, Drain, Compression]
OPTIONAL = {"max_connections_per_ip", "max_connections_per_user", "max_queued_messages"}
FIELDS = [
    pytest.param(cls, field.name, id=f"{cls.__name__}.{field.name}")
    for cls in CLASSES
    for field in attrs.fields(cls)
]
COUNTS = [
    pytest.param(cls, field.name, id=f"{cls.__name__}.{field.name}")
    for cls in (Limits, Compression)
    for field in attrs.fields(cls)
    if field.name != "gives_way"
]
SECONDS = [
    pytest.param(cls, field.name, id=f"{cls.__name__}.{field.name}")
    for cls in (Timeouts, Heartbeat, Drain)
    for field in attrs.fields(cls)
    if field.name != "closes_per_second"
]


@pytest.mark.parametrize("cls", CLASSES)
def test_settings_are_values(cls: type[Any]) -> None:
    """The defaults pass their own validators; equal settings are equal; none can be changed."""
    settings = cls()
    assert settings == cls(**attrs.asdict(settings))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(settings, attrs.fields(cls)[0].name, 5)
    with pytest.raises(TypeError):
        cls(5)  # by keyword alone
    with pytest.raises(TypeError):
        cls(max_conections=5)  # a typo does not pass


@pytest.mark.parametrize("cls, name", FIELDS)
def test_settings_are_told(cls: type[Any], name: str) -> None:
    """Each attribute stands in its class's docstring."""
    assert f"\n        {name}: " in (cls.__doc__ or "")


@pytest.mark.parametrize("cls, name", COUNTS)
def test_counts(cls: type[Any], name: str) -> None:
    """A count is a whole number of at least one; some may be left out."""
    for value in (0, -1):
        with pytest.raises(ValueError, match=name):
            cls(**{name: value})
    for wrong in (1.5, "5", math.inf):
        with pytest.raises(TypeError, match=name):
            cls(**{name: wrong})
    if name in OPTIONAL:
        assert getattr(cls(**{name: None}), name) is None
    else:
        with pytest.raises(TypeError, match=name):
            cls(**{name: None})
    one: Any = {name: 1}
    if cls is Limits:
        assert 1 == getattr(cls(**one), name)


@pytest.mark.parametrize(
    "name", [field.name for field in attrs.fields(Rates) if field.name != "burst_seconds"]
)
def test_rates(name: str) -> None:
    """A rate is a positive number, whole or not, or None for no limit."""
    make: type[Any] = Rates
    for value in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match=name):
            make(**{name: value})
    for wrong in ("5", True):
        with pytest.raises(TypeError, match=name):
            make(**{name: wrong})
    for right in (None, 1, 0.5):
        assert right == getattr(make(**{name: right}), name)


@pytest.mark.parametrize("cls, name", SECONDS)
def test_seconds(cls: type[Any], name: str) -> None:
    """A time is a positive number, whole or not."""
    for value in (0, -1, -math.inf, math.nan):
        with pytest.raises(ValueError, match=name):
            cls(**{name: value})
    for wrong in ("5", None, True):
        with pytest.raises(TypeError, match=name):
            cls(**{name: wrong})
    assert 2 == getattr(cls(**{name: 2}), name)
    assert 2.5 == getattr(cls(**{name: 2.5}), name)


def test_no_time_limit() -> None:
    """``math.inf`` turns one off."""
    assert math.inf == Heartbeat(interval=math.inf).interval
    assert math.inf == Timeouts(handshake_timeout=math.inf).handshake_timeout


def test_retries_have_an_order() -> None:
    """The least is not above the most; both may be the same."""
    with pytest.raises(ValueError, match="max_retry is less than min_retry"):
        Drain(min_retry=2, max_retry=1)
    assert 1 == Drain(min_retry=1, max_retry=1).max_retry


@pytest.mark.parametrize("value", [0, -5])
def test_closes_per_second(value: float) -> None:
    """A drain that closes nobody would not end."""
    with pytest.raises(ValueError, match="closes_per_second"):
        Drain(closes_per_second=value)


@pytest.mark.parametrize("name, value", [("level", 10), ("mem_level", 10), ("max_window_bits", 16)])
def test_what_zlib_can(name: str, value: int) -> None:
    """More than zlib knows of is told here and not by zlib."""
    with pytest.raises(ValueError, match=name):
        Compression(**{name: value})
    with pytest.raises(ValueError, match="max_window_bits"):
        Compression(max_window_bits=8)
