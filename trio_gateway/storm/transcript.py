"""A storm for people: what each client does, and what one of them saw.

In: programs, records. Out: lines of text. The rule: bytes are shown as Python writes them, cut
where they get long, with their notes beside them.
"""

from collections.abc import Iterator

from trio_gateway.storm.program import (
    At,
    Close,
    Connect,
    Expect,
    HalfClose,
    Hoard,
    Program,
    Reset,
    Restart,
    Script,
    Send,
    Sip,
    Step,
    StopReading,
    Wait,
)
from trio_gateway.storm.record import SHOWN, Record


def tell(program: Program) -> Iterator[str]:
    """Yield the lines of a whole program."""
    yield f"a storm of {size_of(program)}"
    for script in program.scripts:
        yield from tell_script(script)


def size_of(program: Program) -> str:
    """Return how large a storm is."""
    counts = (
        (len(program.scripts), "client"),
        (program.steps, "step"),
        (program.sent_bytes, "byte"),
    )
    return ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for count, name in counts)


def tell_script(script: Script) -> Iterator[str]:
    """Yield the lines of one client."""
    yield f"client {script.client}, {script.fault}, from {script.start:g} s:"
    for step in script.steps:
        yield f"  {describe(step)}"


def describe(step: Step) -> str:
    """Return a step as words."""
    match step:
        case Connect(tls=tls, window=window):
            extra = "" if tls else ", without TLS"
            return f"connect{extra}" + ("" if window is None else f", receive buffer {window}")
        case Send(data=data, times=times, cuts=cuts, gap=gap, note=note):
            name = f"{note}: " if note else ""
            often = f", {times} times" if times > 1 else ""
            cut = f", in {len(cuts) + 1} segments" if cuts else ""
            slow = f", {gap:g} s apart" if gap else ""
            return f"send {name}{len(data)} bytes {show(data)}{often}{cut}{slow}"
        case Expect(what=what, within=within):
            return f"expect {what} within {within:g} s"
        case Wait(seconds=seconds):
            return f"wait {seconds:g} s"
        case At(second=second):
            return f"wait until second {second:g}"
        case StopReading():
            return "stop reading"
        case Sip(size=size, every=every, seconds=seconds):
            return f"read {size} bytes every {every:g} s for {seconds:g} s"
        case HalfClose():
            return "half-close (FIN)"
        case Close():
            return "close (FIN)"
        case Reset():
            return "reset (RST)"
        case Hoard(count=count, seconds=seconds):
            return f"hold {count} silent sockets for {seconds:g} s"
        case Restart():
            return "restart the server"


def tell_record(record: Record) -> tuple[str, ...]:
    """Return what one socket saw, a line an event."""
    signs = {"sent": "→", "received": "←"}
    lines = [f"client {record.client}, {record.fault}"]
    for second, what, detail in record.log:
        if what in signs:
            size, data = detail
            lines.append(f"{second:8.3f}  {signs[what]} {size} bytes  {show(data)}")
        else:
            lines.append(f"{second:8.3f}  {what}{f' {detail}' if detail else ''}")
    return (*lines, f"outcome: {record.outcome}")


def show(data: bytes) -> str:
    """Return bytes as Python writes them, the end of long ones left out."""
    shown = repr(data[:SHOWN])[1:]
    return shown if len(data) <= SHOWN else f"{shown}…"
