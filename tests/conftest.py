"""Hypothesis profiles: ``short`` for every change, ``long`` for ``scripts/test --long``."""

import os

from hypothesis import HealthCheck, settings

# A red build is then about the change, not about the day's examples.
CI = "CI" in os.environ
settings.register_profile(
    "short",
    deadline=None,
    print_blob=True,
    derandomize=CI,
    # How fast this machine draws examples says nothing about the gateway.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", settings.get_profile("short"), max_examples=500 if CI else 2_000)
settings.load_profile("short")
