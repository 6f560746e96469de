"""The local index: which topics there are, who is in them, and who comes and goes.

In: subscribers that join, go live and leave. Out: topics with exactly those in them, the broker
attached while they are used, and presence changes to announce. The rule: every change is made at
once, without a checkpoint, and a subscription that ended has left nothing behind.
"""

from collections.abc import Callable

from trio_gateway.hub.attachments import Attachments
from trio_gateway.hub.broker import Broker
from trio_gateway.hub.joining import Join
from trio_gateway.hub.positions import Position
from trio_gateway.hub.presence import Announcer
from trio_gateway.hub.topics import Kind, Link, Subscriber, Subscription, Topic, lane_of
from trio_gateway.hub.values import HubLimits


class Index:
    """The topics of one hub.

    Args:
        broker: attached to topics in use.
        limits: the hub's.
        announce: called with a topic whose listeners are to be told of a change.

    Attributes:
        topics: by name; those about to be released included.
        attachments: has a task to run.
        announcer: has a task to run.
    """

    def __init__(
        self, broker: Broker, limits: HubLimits, announce: Callable[[Topic], None]
    ) -> None:
        self.topics: dict[str, Topic] = {}
        self.attachments = Attachments(broker, self._forget)
        self.announcer = Announcer(limits.presence_interval, announce)
        self._limits = limits
        self._links: dict[Subscriber, Link] = {}

    def join(
        self, name: str, kind: Kind, subscriber: Subscriber, *, user: str, presence: bool
    ) -> Join:
        """Begin a subscription in place of the one the subscriber may have in the topic."""
        self.leave(name, subscriber)
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name, kind)
        link = self._links.get(subscriber)
        if link is None:
            link = self._links[subscriber] = Link(subscriber, lane_of(subscriber))
        subscription = Subscription(link, topic, user, presence, link.lane)
        link.subscriptions[name] = subscription
        join = Join(subscription, self._limits.max_held, self._limits.max_held_bytes)
        topic.joins[subscriber] = join
        return join

    def go_live(self, subscription: Subscription, position: Position) -> None:
        """Turn a join into a live subscription that has everything up to a position."""
        topic = subscription.topic
        del topic.joins[subscription.link.subscriber]
        if topic.roster.arrive(subscription.user):
            self._note(subscription, was_in=False)
        topic.go_live(subscription, position)

    def end(self, subscription: Subscription) -> None:
        """End a subscription, live or joining; one that has ended stays so."""
        if not subscription.active:
            return
        subscription.active = False
        topic, link = subscription.topic, subscription.link
        if not topic.remove(subscription):
            del topic.joins[link.subscriber]
        elif topic.roster.depart(subscription.user):
            self._note(subscription, was_in=True)
        if link.queue:
            link.queue = [batch for batch in link.queue if batch.topic is not topic]
        del link.subscriptions[topic.name]
        if not link.subscriptions:
            del self._links[link.subscriber]
        if topic.unused:
            self.attachments.retire(topic)

    def leave(self, name: str, subscriber: Subscriber) -> bool:
        """End a subscriber's subscription to one topic; return whether there was one."""
        link = self._links.get(subscriber)
        if link is None or name not in link.subscriptions:
            return False
        self.end(link.subscriptions[name])
        return True

    def leave_all(self, subscriber: Subscriber) -> None:
        """End all of a subscriber's subscriptions."""
        link = self._links.get(subscriber)
        if link is not None:
            for subscription in list(link.subscriptions.values()):
                self.end(subscription)

    def _forget(self, topic: Topic) -> None:
        del self.topics[topic.name]

    def _note(self, subscription: Subscription, *, was_in: bool) -> None:
        """Remember to tell the listeners, if there are any, of who came or went."""
        topic = subscription.topic
        if not topic.listeners:
            return
        limit = self._limits.max_presence_names
        if topic.roster.note(subscription.user, was_in=was_in, max_names=limit):
            self.announcer.schedule(topic)
