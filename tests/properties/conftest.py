"""Assertions in the helpers tell as much as those in the tests."""

import pytest

for _name in ("deeds", "judge", "oracle", "world"):
    pytest.register_assert_rewrite(f"tests.properties.{_name}")
