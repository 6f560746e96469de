"""The fixture that users get from the plugin."""

from trio_gateway.storm.pytest_plugin import storm

__all__ = ["storm"]
