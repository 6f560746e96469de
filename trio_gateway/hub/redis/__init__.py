"""The broker in Redis: many processes and machines, and each of them may end at any time.

In: a URL. Out: a ``Broker`` that is also a ``Cluster``, for as long as its ``async with`` lasts::

    async with open_redis("redis://localhost:6379/0") as broker:
        application = Application(broker)

It needs ``coredis`` (``pip install trio-gateway[redis]``) and a Redis from 6.2 on, or what speaks
like one. The URLs, each with ``rediss`` for TLS (``?ssl_ca_certs=FILE&ssl_certfile=FILE&…``)::

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]
    redis+unix://[USER:PASSWORD@]/PATH[?db=DB]
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]…/SERVICE[/DB]
    redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]…

and each may set what ``RedisSettings`` has: ``?prefix=NAME&deadline=SECONDS&lease=SECONDS``.

**A publication** is one script call, however many nodes and subscribers there are: it takes the
offset, looks for the key, appends, trims and wakes the nodes that have subscribers. The wake-up has
the payload in it, unless that is large.

**The promise.** ``publish`` returns when the server has run the script; what was acknowledged is as
durable as that server keeps it (``appendfsync``, replicas). A server that was emptied, or that
has lost what a node has seen of a topic, goes on under a new epoch, and clients are told
``recovered: false`` instead of meeting other messages under offsets they know. Nobody can see a
loss of what no node remembers: let Redis keep an append-only file. It must not evict
(``maxmemory-policy noeviction``).

**While Redis is away**, clients stay connected. A call waits for it for a few seconds, then raises
``StoreUnavailable``; once an outage has lasted that long, at once. Nothing is sent a second time
unless the server said that it did not run it. When it is back, every node reads each of its topics
on from where it was.
"""

from trio_gateway.hub.redis.broker import RedisBroker, RedisStatistics, open_redis
from trio_gateway.hub.redis.settings import RedisSettings

__all__ = ["RedisBroker", "RedisSettings", "RedisStatistics", "open_redis"]
