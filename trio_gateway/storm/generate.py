"""A seed becomes a storm.

In: a seed, how many clients, how long, which faults. Out: a ``Program``. The rule: the same
of these give the same program, byte for byte, on every machine and every Python.
"""

from collections.abc import Collection, Sequence

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults import FAULTS, WELL_BEHAVED, Fault
from trio_gateway.storm.program import Program, Script

_GOOD = 0.25


def generate(
    seed: int,
    *,
    clients: int = 200,
    duration: float = 10.0,
    rate: float = 2000.0,
    faults: Collection[str] = (),
    has: Collection[str] = (),
) -> Program:
    """Return the storm of a seed.

    A quarter of the clients is well behaved, the others are of the faults, by their weights. A
    client is a function of the seed, the faults and its number; its start, of the duration too.

    Arguments:
        seed: any whole number.
        clients: how many.
        duration: seconds in which they start.
        rate: connects a second, at most.
        faults: names; all that ``has`` allows, if there are none.
        has: what is there for faults that need it: ``"tls"``, ``"restart"``.

    Raises:
        KeyError: there is no fault of such a name.
    """
    chosen = [FAULTS[name] for name in faults] or [
        fault for fault in FAULTS.values() if fault.needs is None or fault.needs in has
    ]
    rude = [fault for fault in chosen if fault.name != WELL_BEHAVED] or chosen
    wheel = [fault for fault in rude for _ in range(fault.weight)]
    scripts = [_script(seed, client, duration, wheel) for client in range(clients)]
    return Program(seed=seed, duration=duration, rate=rate, scripts=tuple(scripts))


def _script(seed: int, client: int, duration: float, wheel: Sequence[Fault]) -> Script:
    draw = Draw(seed, client)
    start = draw.seconds(0, duration)
    fault = FAULTS[WELL_BEHAVED] if draw.chance(_GOOD) else draw.one_of(wheel)
    return Script(
        client=client,
        fault=fault.name,
        start=start,
        steps=fault.script(draw),
        polite=fault.polite,
    )
