"""Which topics the broker is subscribed to: those with subscribers, and no others for long.

In: topics that get their first subscriber or lose their last. Out: calls of the broker's
``subscribe`` and ``unsubscribe``, one at a time for each topic. The rule: nobody joins before the
broker is subscribed, and nobody waits to leave; a task of the hub's lets go of what is unused.
"""

from collections.abc import Callable

import trio

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Broker
from trio_gateway.hub.topics import BrokerCall, Topic
from trio_gateway.hub.waker import Waker

_RETRY_SECONDS = 1.0


class Attachments:
    """Keeps the broker's subscriptions with the hub's topics.

    Args:
        broker: its ``subscribe`` and ``unsubscribe`` are idempotent.
        forget: called with a topic that is unused and that the broker no longer delivers.
    """

    def __init__(self, broker: Broker, forget: Callable[[Topic], None]) -> None:
        self._broker = broker
        self._forget = forget
        self._retired: dict[str, Topic] = {}
        self._waker = Waker()

    async def attach(self, topic: Topic) -> None:
        """Have the broker deliver a topic, for whoever is joining it.

        Raises:
            StoreUnavailable: the broker's; whoever waits for the same call gets it too.

        Cancelled: the broker may be subscribed; that is undone if nobody else joins.
        """
        while topic.busy is not None:
            call = topic.busy
            await call.over.wait()
            if call.failure is not None:
                raise StoreUnavailable(*call.failure.args) from call.failure
        if topic.attached or topic.unused:
            return
        call = topic.busy = BrokerCall()
        try:
            await self._broker.subscribe(topic.name)
            topic.attached = True
        except StoreUnavailable as error:
            call.failure = error
            raise
        finally:
            topic.busy = None
            call.over.set()
            if topic.unused:
                self.retire(topic)

    def retire(self, topic: Topic) -> None:
        """Let go of a topic soon, if it is still unused then."""
        self._retired[topic.name] = topic
        self._waker.wake()

    async def run(self) -> None:
        """Let go of retired topics until cancelled; what is left then is done in the next run."""
        while True:
            while not self._retired:
                await self._waker.wait()
            topic = self._retired.pop(next(iter(self._retired)))
            if topic.busy is None and topic.unused and not await self._detach(topic):
                await trio.sleep(_RETRY_SECONDS)

    async def _detach(self, topic: Topic) -> bool:
        call = topic.busy = BrokerCall()
        topic.attached = False
        detached = False
        try:
            await self._broker.unsubscribe(topic.name)
            detached = True
        except StoreUnavailable:
            pass
        finally:
            topic.busy = None
            call.over.set()
            if topic.unused and detached:
                # Somebody may have begun to join and given up meanwhile, and retired it again.
                self._retired.pop(topic.name, None)
                self._forget(topic)
            elif topic.unused:
                self.retire(topic)
        return detached
