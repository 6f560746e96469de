"""A Trio client that reconnects and resumes: nothing lost, nothing twice, no silent gap.

In: a gateway's URL. Out: ``connect_chat()`` and ``connect_notifications()``, each an ``async with``
that holds a connection through breaks, restarts and deploys; ``publish_notification()`` and
``publish_message()`` for programs that keep none. The way of a publication: ``link`` (one
connection) → ``frames`` → ``client`` (the next connection) → ``feed`` (one sequence) → the
``async for``; that of a command: ``commands`` → ``link``, as often as it takes.
"""

from trio_gateway.client.chat import Message, Room, connect_chat
from trio_gateway.client.client import Client
from trio_gateway.client.errors import (
    ClientClosed,
    ClientError,
    CommandRefused,
    Disconnected,
    NotAcknowledged,
    NotAGateway,
    UpgradeRefused,
)
from trio_gateway.client.feed import Gap
from trio_gateway.client.http import publish_message, publish_notification
from trio_gateway.client.notifications import Inbox, Notification, connect_notifications
from trio_gateway.client.options import (
    ClientOptions,
    Closed,
    Connecting,
    Live,
    State,
    Waiting,
)
from trio_gateway.client.settings import ClientSettings
from trio_gateway.hub.positions import Position

__all__ = [
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientOptions",
    "ClientSettings",
    "Closed",
    "CommandRefused",
    "Connecting",
    "Disconnected",
    "Gap",
    "Inbox",
    "Live",
    "Message",
    "NotAGateway",
    "NotAcknowledged",
    "Notification",
    "Position",
    "Room",
    "State",
    "UpgradeRefused",
    "Waiting",
    "connect_chat",
    "connect_notifications",
    "publish_message",
    "publish_notification",
]
