"""The local index: which topics there are, who is in them, and who comes and goes.

In: subscribers that join, go live and leave. Out: topics with exactly those in them, the broker
attached while they are used, and presence changes to announce. The rule: every change is made at
once, without a checkpoint, and a subscription that ended has left nothing behind.
"""

from collections.abc import Callable

from trio_gateway.hub.attachments import Attachments
from trio_gateway.hub.broker import Broker
from trio_gateway.hub.joining import Join
from trio_gateway.hub.neighbours import Neighbours
from trio_gateway.hub.positions import Position
from trio_gateway.hub.presence import Announcer
from trio_gateway.hub.tails import Tails
from trio_gateway.hub.topics import Kind, Link, Subscriber, Subscription, Topic, lane_of
from trio_gateway.hub.values import HubLimits


class Index:
    """The topics of one hub.

    Args:
        broker: attached to topics in use.
        limits: the hub's.
        tails: dropped with their topics.
        announce: called with a topic whose listeners are to be told of a change.

    Attributes:
        neighbours: the other nodes, told who is in here; None where there are none.
        topics: by name; those about to be released included.
        tails: of the topics.
        attachments: has a task to run.
        announcer: has a task to run.
    """

    def __init__(
        self,
        broker: Broker,
        limits: HubLimits,
        tails: Tails,
        announce: Callable[[Topic], None],
    ) -> None:
        self.neighbours: Neighbours | None = None
        self.topics: dict[str, Topic] = {}
        self.attachments = Attachments(broker, self._forget)
        self.tails = tails
        self.announcer = Announcer(limits.presence_interval, announce)
        self._limits = limits
        self._links: dict[Subscriber, Link] = {}

    def join(
        self,
        name: str,
        kind: Kind,
        subscriber: Subscriber,
        *,
        user: str,
        presence: bool,
        since: Position | None,
        limit: int,
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
        link.add(subscription)
        join = Join(topic, since, limit, subscription)
        topic.joins[subscriber] = join
        return join

    def go_live(self, subscription: Subscription, position: Position) -> None:
        """Turn a join into a live subscription that has everything up to a position."""
        topic = subscription.topic
        if topic.joins.pop(subscription.link.subscriber).remove(subscription):
            topic.go_live(subscription, position)
            return
        if topic.roster.arrive(subscription.user):
            self.note(topic, subscription.user, was_in=False)
        if self.neighbours is not None and topic.kind.presence is not None:
            self.neighbours.arrive(topic.name, subscription.user)
        if subscription.presence:
            topic.roster.told(self._limits.max_presence_names)
        topic.go_live(subscription, position)

    def end(self, subscription: Subscription) -> None:
        """End a subscription, live or joining; one that has ended stays so."""
        if not subscription.active:
            return
        subscription.active = False
        topic, link = subscription.topic, subscription.link
        if topic.remove(subscription) or topic.joins.pop(link.subscriber).remove(subscription):
            if topic.roster.depart(subscription.user):
                self.note(topic, subscription.user, was_in=True)
            if self.neighbours is not None and topic.kind.presence is not None:
                self.neighbours.depart(topic.name, subscription.user)
        link.drop(subscription)
        if not link.subscriptions:
            del self._links[link.subscriber]
        if topic.unused:
            self.tails.drop(topic)
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

    def refresh(self, topic: Topic) -> None:
        """Tell the listeners of a topic everything, if there are any."""
        if topic.listeners and topic.roster.forget():
            self.announcer.schedule(topic)

    def _forget(self, topic: Topic) -> None:
        del self.topics[topic.name]

    def users(self, user: str) -> list[Subscriber]:
        """Return the subscribers that count for a user in some topic."""
        return [
            subscriber
            for subscriber, link in self._links.items()
            if any(found.user == user for found in link.subscriptions.values())
        ]

    def note(self, topic: Topic, user: str, *, was_in: bool) -> None:
        """Remember to tell the listeners, if there are any, of who came or went."""
        if not topic.listeners:
            return
        limit = self._limits.max_presence_names
        if topic.roster.note(user, was_in=was_in, max_names=limit):
            self.announcer.schedule(topic)
