"""The faults: each a way in which real clients fail, with what a server may do about it.

In: a name. Out: the ``Fault``. The rule: the table below is all there is; nothing registers itself.
"""

from trio_gateway.storm.faults import frames, herds, http, tls, transport, upgrades
from trio_gateway.storm.faults.fault import SHED, Allowed, Fault, Profile

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        *transport.FAULTS,
        *http.FAULTS,
        *upgrades.FAULTS,
        *tls.FAULTS,
        *frames.FAULTS,
        *herds.FAULTS,
    )
}
"""By name, in the order in which they are told."""

WELL_BEHAVED = herds.GOOD.name

__all__ = ["FAULTS", "SHED", "WELL_BEHAVED", "Allowed", "Fault", "Profile"]
