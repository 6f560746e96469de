"""How a Redis broker is run: what an operator may set, and the names of what it keeps.

In: a prefix and topics. Out: keys, channels. The rule: all keys of one topic share the hash tag of
its partition, so that one script may use them in a Redis Cluster too, and the partitions spread.
"""

import zlib

import attrs
from attrs.validators import ge, gt

_PARTITIONS = 64


def _check_prefix(_instance: object, _attribute: "attrs.Attribute[str]", value: str) -> None:
    if not value or not value.isascii() or not value.isprintable() or set(value) & set("{} *?["):
        raise ValueError(
            f"a prefix is printable ASCII without spaces, braces and *?[, not {value!r}"
        )


@attrs.frozen(kw_only=True)
class RedisSettings:
    """How a Redis broker is run.

    Attributes:
        prefix: of every key and channel: gateways with the same prefix are nodes of one another.
        deadline: seconds a call may take, the wait for a connection included.
        lease: seconds after which a node that was not heard of has ended, and its users with it.
        max_waiting: calls under way at once; more wait for their turn.
        inline_bytes: payloads up to this size travel with the wake-up; of others each node with
            subscribers reads one copy.
        forget_after: seconds after its last publication in which a topic's offsets and read
            cursors are forgotten, and a new epoch begins; at least twice ``max_age``.
        presence_pause: seconds that users who come and go are gathered for, before the other nodes
            are told.
    """

    prefix: str = attrs.field(default="trio-gateway", validator=_check_prefix)
    deadline: float = attrs.field(default=5.0, validator=gt(0))
    lease: float = attrs.field(default=10.0, validator=ge(0.1))
    max_waiting: int = attrs.field(default=1_024, validator=ge(1))
    inline_bytes: int = attrs.field(default=16 * 1024, validator=ge(0))
    forget_after: float = attrs.field(default=30 * 86_400.0, validator=gt(0))
    presence_pause: float = attrs.field(default=0.05, validator=ge(0))


@attrs.frozen
class Names:
    """The keys and channels of one gateway.

    Args:
        prefix: see ``RedisSettings``.
        db: the number of the database; channels don't belong to one, so it is in their names.
    """

    prefix: str
    db: int = 0

    @property
    def nodes(self) -> str:
        """The key of the nodes and their leases."""
        return f"{self.prefix}:{{nodes}}"

    @property
    def control(self) -> str:
        """The channel that every node hears."""
        return f"{self.prefix}@{self.db}:control"

    @property
    def probe(self) -> str:
        """A channel that nobody hears."""
        return f"{self.prefix}@{self.db}:probe"

    def keys(self, topic: str, *names: str) -> list[str]:
        """Return keys of a topic; ``era`` is that of its partition."""
        tag = f"{self.prefix}:{{{zlib.crc32(topic.encode()) % _PARTITIONS:02x}}}"
        return [f"{tag}:era" if name == "era" else f"{tag}:{name}:{topic}" for name in names]

    def channel(self, topic: str) -> str:
        """Return the channel of a topic."""
        return f"{self.prefix}@{self.db}:t:{topic}"

    def topic_of(self, channel: str) -> str | None:
        """Return the topic of a channel; None for the control channel."""
        _, colon, topic = channel.partition(f"@{self.db}:t:")
        return topic if colon else None
