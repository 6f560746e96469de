"""Storms: seeded, replayable herds of rude clients, against any WebSocket server.

``generate(seed)`` makes a ``Program``, ``run_storm(place, program)`` runs it and returns a
``Recording`` with its findings, ``shrink()`` makes a storm that fails small. ::

    async def test_it_survives(nursery: trio.Nursery) -> None:
        listeners = await nursery.start(my_server)
        recording = await run_storm(listeners[0], generate(7, clients=100, duration=1))
        assert recording.clean, recording.findings

The way through: a seed (``draw.py``) chooses faults (``faults/``), whose scripts (``program.py``)
are played by clients (``client.py``) on a network (``transport.py``, ``sockets.py``) while control
connections (``control.py``) go on; what the server says is read (``reader.py``) and judged
(``oracle.py``), and what is found is made small (``shrink.py``).
"""

from trio_gateway.storm.faults import FAULTS, Allowed, Fault, Profile
from trio_gateway.storm.gauges import Gauge, of_process, of_this_process
from trio_gateway.storm.generate import generate
from trio_gateway.storm.oracle import Bounds
from trio_gateway.storm.probe import NoUpgrade, Survey
from trio_gateway.storm.program import BadProgram, Program, Script, loads
from trio_gateway.storm.record import Finding, Recording, Sample
from trio_gateway.storm.run import run_storm, stormy
from trio_gateway.storm.shrink import Shrunk, shrink
from trio_gateway.storm.target import BadTarget, Target
from trio_gateway.storm.transport import Broken, Line, Network, Unreachable

__all__ = [
    "FAULTS",
    "Allowed",
    "BadProgram",
    "BadTarget",
    "Bounds",
    "Broken",
    "Fault",
    "Finding",
    "Gauge",
    "Line",
    "Network",
    "NoUpgrade",
    "Profile",
    "Program",
    "Recording",
    "Sample",
    "Script",
    "Shrunk",
    "Survey",
    "Target",
    "Unreachable",
    "generate",
    "loads",
    "of_process",
    "of_this_process",
    "run_storm",
    "shrink",
    "stormy",
]
