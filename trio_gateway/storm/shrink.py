"""A storm that fails is made small: clients, then steps, then bytes, for as long as it still fails.

In: a program, the rule that it breaks, a way to try. Out: the smallest program that was found to
break the same rule. The rules: delta debugging (Zeller and Hildebrandt 2002), within a budget of
tries; a try that breaks another rule has not failed; what is returned has been seen to fail.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import attrs

from trio_gateway.storm.program import (
    At,
    Connect,
    Expect,
    Hoard,
    Program,
    Script,
    Send,
    Sip,
    Step,
    Wait,
)
from trio_gateway.storm.record import Finding

_T = TypeVar("_T")
Fails = Callable[[Program], Awaitable[bool]]
_MIN_BYTES = 1


@attrs.frozen
class Shrunk:
    """What came of it.

    Attributes:
        program: the smallest that fails.
        tries: how many storms were run.
        reproduced: whether the storm failed again at all; if not, ``program`` is as it was.
        finding: what the smallest breaks, with what was seen then; None where nobody kept it.
    """

    program: Program
    tries: int
    reproduced: bool
    finding: Finding | None = None


async def shrink(
    program: Program,
    fails: Fails,
    *,
    suspects: Sequence[int] = (),
    max_tries: int = 150,
) -> Shrunk:
    """Make a failing storm small.

    Arguments:
        program: a storm that broke a rule.
        fails: runs a storm against a server that is well, and says whether it breaks that rule.
        suspects: clients that were there when it happened, the likeliest first.
        max_tries: storms to run at most.
    """
    shrinker = _Shrinker(fails, max_tries)
    begun = await shrinker.begin(program, suspects)
    if begun is None:
        return Shrunk(program, shrinker.tries, reproduced=False)
    smaller = await shrinker.clients(begun)
    smaller = await shrinker.pull_together(smaller)
    smaller = await shrinker.steps(smaller)
    smaller = await shrinker.clients(smaller)
    smaller = await shrinker.octets(smaller)
    return Shrunk(smaller, shrinker.tries, reproduced=True)


class _Shrinker:
    def __init__(self, fails: Fails, max_tries: int) -> None:
        self._fails = fails
        self._left = max_tries
        self._seen: dict[Program, bool] = {}
        self.tries = 0

    async def _try(self, program: Program) -> bool:
        if program in self._seen:
            return self._seen[program]
        if not program.scripts or self._left <= 0:
            return False
        self._left -= 1
        self.tries += 1
        self._seen[program] = await self._fails(program)
        return self._seen[program]

    async def begin(self, program: Program, suspects: Sequence[int]) -> Program | None:
        """Return the smallest of the likely storms that fails, or None if not even all of it."""
        scripts = {script.client: script for script in program.scripts}
        order = [scripts[client] for client in suspects if client in scripts]
        for count in (1, 3, 10, 40):
            if count > 1 and len(order) < count:
                break
            for start in range(min(len(order), 4) if count == 1 else 1):
                some = _only(program, order[start : start + count])
                if await self._try(_hurried(some)):
                    return _hurried(some)
        for _ in range(2):
            if await self._try(program):
                return program
            self._seen.pop(program, None)
        return None

    async def clients(self, program: Program) -> Program:
        """Take clients away."""

        async def still(scripts: Sequence[Script]) -> bool:
            return await self._try(_only(program, scripts))

        return _only(program, await _minimal(program.scripts, still))

    async def pull_together(self, program: Program) -> Program:
        """Let all start at once."""
        hurried = _hurried(program)
        return hurried if await self._try(hurried) else program

    async def steps(self, program: Program) -> Program:
        """Take steps away, client by client."""
        for number in range(len(program.scripts)):
            script = program.scripts[number]

            async def still(
                steps: Sequence[Step], number: int = number, base: Program = program
            ) -> bool:
                return await self._try(_with_steps(base, number, steps))

            program = _with_steps(program, number, await _minimal(script.steps, still))
        return program

    async def octets(self, program: Program) -> Program:
        """Make what is sent shorter, and waits too."""
        for number, script in enumerate(program.scripts):
            for place in range(len(script.steps)):
                program = await self._simplest(program, number, place)
        return program

    async def _simplest(self, program: Program, number: int, place: int) -> Program:
        for simpler in _simpler(program.scripts[number].steps[place]):
            candidate = _replaced(program, number, place, simpler)
            if await self._try(candidate):
                program = candidate
        step = program.scripts[number].steps[place]
        if isinstance(step, Send):
            sent = step

            async def still(pieces: Sequence[bytes]) -> bool:
                shorter = attrs.evolve(sent, data=b"".join(pieces), cuts=(), note="")
                return await self._try(_replaced(program, number, place, shorter))

            pieces = await _minimal(_pieces(sent.data), still)
            data = b"".join(pieces)
            if data != sent.data:
                program = _replaced(
                    program, number, place, attrs.evolve(sent, data=data, cuts=(), note="")
                )
        return program


async def _minimal(
    things: Sequence[_T], still: Callable[[Sequence[_T]], Awaitable[bool]]
) -> tuple[_T, ...]:
    """Return things of which none of the tried parts can be left out."""
    current = tuple(things)
    size = max(1, len(current) // 2)
    while size >= 1 and len(current) > 1:
        start, taken = 0, False
        while start < len(current) and len(current) > 1:
            without = current[:start] + current[start + size :]
            if without and await still(without):
                current, taken = without, True
            else:
                start += size
        if size == 1 and not taken:
            break
        size = max(1, size // 2) if not taken or size > 1 else 1
    return current


def _only(program: Program, scripts: Sequence[Script]) -> Program:
    return attrs.evolve(program, scripts=tuple(scripts))


def _hurried(program: Program) -> Program:
    """Return the storm with all clients at its start, where none waits for a moment of it."""
    scripts = tuple(attrs.evolve(script, start=0.0) for script in program.scripts)
    return attrs.evolve(program, scripts=scripts, duration=0.0)


def _with_steps(program: Program, number: int, steps: Sequence[Step]) -> Program:
    script = attrs.evolve(program.scripts[number], steps=tuple(steps))
    return _only(program, (*program.scripts[:number], script, *program.scripts[number + 1 :]))


def _replaced(program: Program, number: int, place: int, step: Step) -> Program:
    steps = program.scripts[number].steps
    return _with_steps(program, number, (*steps[:place], step, *steps[place + 1 :]))


def _simpler(step: Step) -> Iterator[Step]:
    """Yield the same step with less in it."""
    match step:
        case Connect(window=int()):
            yield attrs.evolve(step, window=None)
        case Send():
            if step.cuts or step.gap:
                yield attrs.evolve(step, cuts=(), gap=0.0)
            for times in (1, step.times // 16, step.times // 4, step.times // 2):
                if 1 <= times < step.times:
                    yield attrs.evolve(step, times=times)
                    break
        case Wait(seconds=seconds) if seconds > 0.1:
            yield Wait(0.1)
        case At(second=second) if second > 0.2:
            yield At(0.2)
        case Sip(seconds=seconds) if seconds > 0.2:
            yield attrs.evolve(step, seconds=0.2)
        case Hoard(count=count) if count > 1:
            yield attrs.evolve(step, count=max(1, count // 4))
        case Expect(within=within) if within > 2:
            yield attrs.evolve(step, within=2.0)
        case _:
            pass


def _pieces(data: bytes) -> tuple[bytes, ...]:
    """Return what bytes are taken away by: lines of a head, else up to sixteen parts."""
    if b"\r\n" in data:
        *lines, last = data.split(b"\r\n")
        return tuple(line + b"\r\n" for line in lines) + ((last,) if last else ())
    size = max(_MIN_BYTES, len(data) // 16)
    return tuple(data[start : start + size] for start in range(0, len(data), size))
