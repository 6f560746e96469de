"""The checks in the order they are made: first whether it is there, last whether it still is."""

from trio_gateway.cli.checklist import api, chat, load, notifications, start, upgrades
from trio_gateway.cli.checklist.probe import Check

CHECKS: tuple[Check, ...] = (
    *start.CHECKS,
    *upgrades.CHECKS,
    *chat.CHECKS,
    *notifications.CHECKS,
    *api.CHECKS,
    *load.CHECKS,
)
