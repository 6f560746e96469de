"""Which topics share subscribers: what the fan-out goes by when it writes straight."""

from hypothesis import given
from hypothesis import strategies as st

from tests.hub.fakes import Recorder, line
from trio_gateway.hub.topics import Kind, Link, Subscription, Topic, lane_of
from trio_gateway.transport.outbox import Verdict

KIND = Kind(line, None)


class Behind:
    """A subscriber whose frames go to something behind it."""

    def __init__(self) -> None:
        self.lane = Recorder()

    def offer(self, frame: bytes) -> Verdict:
        raise AssertionError(frame)


def test_a_lane_stands_in_for_its_subscriber() -> None:
    """Frames are offered to a subscriber's lane, and to itself if it has none."""
    plain, behind = Recorder(), Behind()
    assert (plain, behind.lane) == (lane_of(plain), lane_of(behind))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_topics_know_how_much_they_share(changes: list[tuple[int, int]]) -> None:
    """A topic counts its subscriptions whose subscriber has others, whoever comes and goes."""
    topics = [Topic(f"t:{number}", KIND) for number in range(4)]
    links = [Link(subscriber, subscriber) for subscriber in (Recorder() for _ in range(4))]
    for which, where in changes:
        link, topic = links[which], topics[where]
        if topic.name in link.subscriptions:
            link.drop(link.subscriptions[topic.name])
        else:
            link.add(Subscription(link, topic, "u", False, link.lane))
        assert [
            sum(len(of.subscriptions) > 1 and each.name in of.subscriptions for of in links)
            for each in topics
        ] == [each.shared for each in topics]
