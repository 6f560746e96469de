"""What things cost: server CPU seconds and bytes, measured on quieter days than the README's.

Figures of two shared cores; read ratios, and put your own machine's here.
"""

from typing import Final

MICRO: Final = 1e-6

# scripts/bench.
DELIVERY = 7.5 * MICRO  # one at a time, to 1,000
DELIVERY_BATCHED = 0.55 * MICRO  # 16 in flight
ECHO = 16.0 * MICRO  # a message in, a message out
UPGRADE = 130 * MICRO  # connect, upgrade, close
IDLE_BYTES = 7.4 * 1024  # of a chat connection, in the process; the kernel's buffers come on top

# scripts/capacity --measure: connect, upgrade, welcome, joined, the messages missed.
RETURN = 400 * MICRO

# scripts/bench --only broker: a publication of 128 bytes to 1,000 subscribers at one node, as the
# redis-server's own CPU, and as what the node spends on it beside what it spends with memory.
REDIS_PUBLISH = 290 * MICRO  # one at a time
REDIS_PUBLISH_BUSY = 60 * MICRO  # 16 in flight
NODE_PUBLISH = 1200 * MICRO  # one at a time
NODE_PUBLISH_BUSY = 170 * MICRO  # 16 in flight
