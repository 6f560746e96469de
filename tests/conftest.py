"""Hypothesis profiles: ``short`` for every change, ``long`` for ``scripts/test --long``."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "short",
    deadline=None,
    print_blob=True,
    # A red build is then about the change, not about the day's examples.
    derandomize="CI" in os.environ,
    # How fast this machine draws examples says nothing about the gateway.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long", settings.get_profile("short"), derandomize=False, max_examples=2_000
)
settings.load_profile("short")
