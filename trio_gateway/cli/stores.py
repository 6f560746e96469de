"""The store that ``--store`` names.

In: options. Out: a broker for as long as the gateway runs, and what to call it. The rule: what a
store needs is loaded only where that store is used.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from trio_gateway.cli.options import ServeOptions, is_shared
from trio_gateway.errors import ConfigurationError
from trio_gateway.hub.broker import Broker
from trio_gateway.hub.memory import MemoryBroker

Store: TypeAlias = tuple[Broker, str]


@asynccontextmanager
async def open_store(options: ServeOptions) -> AsyncGenerator[Store, None]:
    """Open the store; the name is ``memory``, ``sqlite:`` with the whole path, or where Redis is.

    A Redis that cannot be reached yet is waited for: the gateway is not ready until then.

    Raises:
        ConfigurationError: it cannot be used; names the setting.

    Cancelled: what was acknowledged is kept, as well as that store does.
    """
    if options.store == "memory":
        yield MemoryBroker(retention=options.retention), "memory"
        return
    if is_shared(options.store):
        async with _open_redis(options) as store:
            yield store
        return
    path = options.store.removeprefix("sqlite:")
    sqlite = _import_sqlite(options)
    settings = sqlite.SqliteSettings(synchronous=options.store_synchronous)
    broker = None
    try:
        async with sqlite.open_sqlite(
            path, retention=options.retention, settings=settings
        ) as broker:
            yield broker, f"sqlite:{broker.path}"
    except ConfigurationError as error:
        if broker is not None:
            raise
        raise options.given["store"].wrong(str(error)) from error


@asynccontextmanager
async def _open_redis(options: ServeOptions) -> AsyncGenerator[Store, None]:
    broker = None
    try:
        async with _import_redis(options).open_redis(
            options.store, retention=options.retention
        ) as broker:
            yield broker, broker.address
    except ConfigurationError as error:
        if broker is not None:
            raise
        raise options.given["store"].wrong(str(error)) from error


def _import_redis(options: ServeOptions) -> Any:
    try:
        from trio_gateway.hub import redis
    except ImportError as error:
        raise options.given["store"].wrong(
            f"Redis needs coredis ({error}): pip install 'trio-gateway[redis]'"
        ) from error
    return redis


def _import_sqlite(options: ServeOptions) -> Any:
    try:
        from trio_gateway.hub import sqlite
    except ImportError as error:
        raise options.given["store"].wrong(f"sqlite needs apsw ({error}); or use memory") from error
    return sqlite
