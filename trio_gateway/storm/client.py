"""One client: a script, played on a network.

In: a script and what fills its words in braces. Out: a ``Record`` for each socket, as it ends. The
rules: whatever the server does, the script goes on or skips to its next ``Connect``; every wait is
bounded by its step; a cancelled client resets its sockets and still tells of them.
"""

from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from trio_gateway.storm.octets import CLOSE, PONG, frame
from trio_gateway.storm.program import (
    At,
    Awaited,
    Close,
    Connect,
    Expect,
    HalfClose,
    Hoard,
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
from trio_gateway.storm.target import Target
from trio_gateway.storm.transport import Broken, Line, Network, Unreachable

_READ = 65536
_CONNECT = 10.0
# Behind a send that does not move for so long, the script goes on: the peer reads no more.
_SEND = 3.0


class Stage(Protocol):
    """What a client needs of the storm it is in."""

    network: Network
    target: Target
    start: float

    async def enter(self) -> None:
        """Wait until another socket may be opened, and count it."""
        ...

    def leave(self) -> None:
        """A socket is closed."""
        ...

    async def restart(self) -> None:
        """Have the server restarted."""
        ...

    def path(self, script: Script, /) -> str:
        """Return the path that a client asks for."""
        ...

    def lacking(self) -> None:
        """A socket could not be had, and that is our own fault."""
        ...


@attrs.define(eq=False)
class Client:
    """Plays a script.

    Arguments:
        script: what to do.
        stage: the storm.
        tell: called with each record that is complete.
    """

    script: Script
    stage: Stage
    tell: Callable[[Record], None]
    _line: Line | None = None
    _record: Record | None = None
    _reading: bool = True
    _skipping: bool = False
    _said_goodbye: bool = False
    _position: str | None = None

    async def run(self) -> None:
        """Play it to its end, or until cancelled."""
        try:
            for step in self.script.steps:
                if self._skipping and not isinstance(step, Connect | At | Wait | Restart | Hoard):
                    continue
                await self._play(step)
            self._part("left")
        except trio.Cancelled:
            self._cut_off()
            raise

    def _cut_off(self) -> None:
        if self._line is not None and self._record is not None:
            self._record.cut_off = True
            self._part("held", rudely=True)

    @property
    def _now(self) -> float:
        return trio.current_time() - self.stage.start

    async def _play(self, step: Step) -> None:
        match step:
            case Connect():
                await self._connect(step)
            case Send():
                await self._send(step)
            case Expect(what=what, within=within):
                await self._expect(what, within)
            case Wait(seconds=seconds):
                await self._read_until(trio.current_time() + seconds)
            case At(second=second):
                await self._read_until(self.stage.start + second)
            case StopReading():
                self._reading = False
                if self._record is not None:
                    self._record.not_read = True
            case Sip():
                await self._sip(step)
            case HalfClose():
                if self._line is not None:
                    self._note("half-close (FIN)")
                    await self._line.half_close()
            case Close():
                self._note("close (FIN)")
                self._part("left")
            case Reset():
                self._note("reset (RST)")
                self._part("left", rudely=True)
            case Hoard():
                await self._hoard(step)
            case Restart():
                await self.stage.restart()

    # Sockets.

    async def _connect(self, step: Connect) -> None:
        self._part("left")
        self._reading, self._skipping, self._said_goodbye = True, False, False
        await self.stage.enter()
        record = Record(self.script.client, self.script.fault, self._now)
        try:
            with trio.fail_after(_CONNECT):
                self._line = await self.stage.network.connect(tls=step.tls, window=step.window)
            self._record = record
        except trio.TooSlowError:
            self._fail(record, f"no connection within {_CONNECT:g} s")
        except Unreachable as error:
            if error.ours:
                self.stage.lacking()
                self._skipping = True
            else:
                self._fail(record, str(error))
        finally:
            if self._line is None:
                self.stage.leave()

    def _fail(self, record: Record, why: str) -> None:
        record.end, record.ended = "unreachable", self._now
        record.note(self._now, "unreachable", why)
        self._skipping = True
        self.tell(record)

    def _part(self, end: str, *, rudely: bool = False) -> None:
        """The socket is over: close our side, hand its record out."""
        line, record = self._line, self._record
        if line is None or record is None:
            return
        self._line = self._record = None
        if rudely:
            line.reset()
        else:
            line.close()
        self.stage.leave()
        if end == "left" and record.awaited is not None:
            end = "held"
        record.reader.finish()
        record.end, record.ended = end, self._now
        self._position = record.reader.position or self._position
        self.tell(record)

    def _note(self, what: str) -> None:
        if self._record is not None:
            self._record.note(self._now, what, None)

    # Sending.

    async def _send(self, step: Send) -> None:
        record = self._record
        if record is None:
            return
        data = self._filled(step.data)
        if data.startswith(b"HEAD "):
            record.reader.head_only = True
        record.note(self._now, "sent", (len(data) * step.times, data[: SHOWN + 1]))
        if data[:1] == b"\x88" or data[-8:-6] == b"\x88\x82":
            self._said_goodbye = True
        pieces = _pieces(data, step)
        try:
            for number, piece in enumerate(pieces):
                if number and step.gap:
                    await self._read_until(trio.current_time() + step.gap)
                if self._line is None:
                    return
                sent = self._line.send_now(piece)
                if sent == len(piece):
                    continue  # the common case, without a scope
                with trio.move_on_after(_SEND) as scope:
                    await self._line.send(piece[sent:])
                if scope.cancelled_caught:
                    self._note("sending is stuck")
                    return
        except Broken as error:
            await self._lost(error)
        record.said = self._now
        record.asked = record.said if record.asked is None else record.asked

    def _filled(self, data: bytes) -> bytes:
        if b"{" not in data:
            return data
        target = self.stage.target
        path = self.stage.path(self.script)
        since = ""
        if self._position is not None:
            since = f"{'&' if '?' in path else '?'}since={self._position}"
        for word, value in (
            (b"{authority}", target.authority),
            (b"{path}", path),
            (b"{other}", target.other),
            (b"{since}", since),
        ):
            data = data.replace(word, value.encode("latin-1"))
        return data

    async def _lost(self, error: Broken) -> None:
        """The peer has reset it; what it said before may still be there to be read."""
        if self._record is None:
            return
        if self._reading:
            with trio.move_on_after(0.2):
                while await self._read_some():
                    pass
        self._note(str(error))
        self._part("reset")
        self._skipping = True

    # Receiving.

    async def _expect(self, what: Awaited, within: float) -> None:
        record = self._record
        if record is None:
            return
        already = _count(record, what)
        with trio.move_on_after(within) as scope:
            while self._record is record and not _come(record, what, already):
                await self._read_some()
        if scope.cancelled_caught:
            record.awaited = what
            record.note(self._now, f"no {what} within {within:g} s", None)
        if what == "upgrade" and not record.reader.upgraded:
            self._skipping = True
            if self._record is record:
                self._part("left")

    async def _read_until(self, deadline: float) -> None:
        if self._line is not None and self._reading:
            with trio.CancelScope(deadline=deadline):
                while await self._read_some():
                    pass
        if trio.current_time() < deadline:
            await trio.sleep_until(deadline)

    async def _sip(self, step: Sip) -> None:
        end = trio.current_time() + step.seconds
        while self._line is not None and trio.current_time() < end:
            with trio.move_on_after(step.every):
                await self._read_some(step.size)
            await trio.sleep(step.every)

    async def _read_some(self, size: int = _READ) -> bool:
        """Take what comes next; return whether there may be more."""
        line, record = self._line, self._record
        assert line is not None
        assert record is not None
        try:
            data = await line.receive(size)
        except Broken as error:
            record.note(self._now, str(error), None)
            self._part("reset")
            return False
        reader, now = record.reader, self._now
        if not data:
            reader.feed_eof()
            record.note(now, "end of file", None)
            if record.answered is None and reader.answers:
                record.answered = now
            self._part("end")
            return False
        record.note(now, "received", (len(data), data[: SHOWN + 1]))
        reader.feed(data)
        if record.answered is None and (reader.answers or reader.upgraded):
            record.answered = now
        if self.script.polite and (reader.pings or reader.closing is not None):
            await self._be_polite(line, record)
        return True

    async def _be_polite(self, line: Line, record: Record) -> None:
        reader = record.reader
        answer = b"".join(frame(PONG, ping) for ping in reader.pings)
        reader.pings.clear()
        if reader.closing is not None:
            answer += b"" if self._said_goodbye else frame(CLOSE, reader.closing)
            reader.closing = None
        if not answer:
            return
        try:
            with trio.move_on_after(_SEND):
                await line.send(answer)
        except Broken:
            pass  # it has said goodbye, and need not listen

    # Many sockets.

    async def _hoard(self, step: Hoard) -> None:
        lines: list[Line] = []
        try:
            with trio.move_on_after(step.seconds):
                for _ in range(step.count):
                    await self.stage.enter()
                    try:
                        lines.append(await self.stage.network.connect(tls=False, window=None))
                    except Unreachable as error:
                        self.stage.leave()
                        if error.ours:
                            self.stage.lacking()
                            break
                    except BaseException:
                        self.stage.leave()
                        raise
                await trio.sleep_forever()
        finally:
            for line in lines:
                line.close()
                self.stage.leave()


def _pieces(data: bytes, step: Send) -> list[bytes]:
    """Return what leaves at once: segments, or as much of a repetition as is handy."""
    places = sorted({cut for cut in step.cuts if 0 < cut < len(data)})
    segments = [
        data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)
    ]
    if step.times == 1 or step.gap:
        return segments * step.times
    together = max(1, _READ // max(1, len(data)))
    whole, rest = divmod(step.times, together)
    return [data * together] * whole + ([data * rest] if rest else [])


def _count(record: Record, what: Awaited) -> int:
    reader = record.reader
    return {"answer": reader.answers, "message": reader.messages, "pong": reader.pongs}.get(what, 0)


def _come(record: Record, what: Awaited, already: int) -> bool:
    reader = record.reader
    match what:
        case "answer":
            return reader.answers > 0 or reader.upgraded or reader.status in ("tls", "h2")
        case "upgrade":
            return reader.upgraded or reader.answers > 0
        case "message":
            return reader.messages > already or reader.close is not None
        case "pong":
            return reader.pongs > already or reader.close is not None
        case "close":
            return reader.close is not None
        case "end":
            return False
