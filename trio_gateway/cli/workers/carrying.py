"""A question of one worker, carried to all.

In: the question. Out: each worker's answer, handed on as it comes, then the end of them. The rules:
nothing is read, kept or added up here, so that a long answer costs the supervisor its copying; who
does not answer in time is told of; who has ended has nothing left that could be missing.
"""

from collections.abc import Collection

import trio

from trio_gateway.cli.workers.worker import Worker


async def carry(
    asker: Worker,
    workers: Collection[Worker],
    *,
    number: int,
    what: str,
    about: str,
    restarts: int,
    within: float,
) -> None:
    """Ask all workers that serve, the asker too, and tell it what they say.

    Arguments:
        asker: whose question it is.
        workers: those alive.
        number: the asker's, of the question.
        what: the name of the question.
        about: what is asked about.
        restarts: how many were started in the place of a dead one.
        within: seconds that each has.

    Cancelled: the asker hears no end, and helps itself.
    """

    async def ask(worker: Worker) -> None:
        text = await worker.tell(what, about, within=within)
        if text is not None or not worker.parted:
            await asker.channel.send("answer", id=number, pid=worker.pid, text=text)

    async with trio.open_nursery() as nursery:
        for worker in workers:
            if worker.ready.is_set():  # another one holds nothing yet
                nursery.start_soon(ask, worker)
    await asker.channel.send("answered", id=number, workers=len(workers), restarts=restarts)
