"""Assertions in the helpers tell as much as those in the tests."""

import pytest

for _name in ("decisions", "deeds", "judge", "oracle", "upgrade_machine", "world"):
    pytest.register_assert_rewrite(f"tests.properties.{_name}")
