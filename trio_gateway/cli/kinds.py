"""The kinds of values that settings have: text from a flag or a variable, a typed value from TOML.

In: a string, or what TOML made of a value. Out: a value of the right type and in range. The rule: a
value that cannot be meant raises ``BadValue``, whose text is the end of a sentence that begins with
where the value stands.
"""

import math
import os
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

_T = TypeVar("_T")
_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 80


class BadValue(ValueError):
    """A value that a setting cannot have; ``str()`` says what it must be."""


class Kind(ABC, Generic[_T]):
    """A kind of value.

    Attributes:
        metavar: what stands for the value in the help.
    """

    metavar: str

    @abstractmethod
    def read(self, text: str) -> _T:
        """Return the value that ``text`` means; raises BadValue."""

    @abstractmethod
    def take(self, value: object) -> _T:
        """Return the value that TOML's ``value`` means; raises BadValue for another type too."""


def expected(meaning: str, value: object) -> BadValue:
    """Return the error that says what was expected and what was found, on one line."""
    return BadValue(f"must be {meaning}, not {_shorten.repr(value)}")


@attrs.frozen
class Whole(Kind[int]):
    """A whole number from ``least`` to ``most``."""

    metavar: str
    least: int = 1
    most: int = 2**53

    @property
    def meaning(self) -> str:
        """What the value must be."""
        limit = "" if self.most == 2**53 else f" to {self.most}"
        return f"a whole number from {self.least}{limit}"

    def read(self, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,16}", text) is None:
            raise expected(self.meaning, text)
        return self._in_range(int(text))

    def take(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise expected(self.meaning, value)
        return self._in_range(value)

    def _in_range(self, number: int) -> int:
        if not self.least <= number <= self.most:
            raise expected(self.meaning, number)
        return number


@attrs.frozen
class Seconds(Kind[float]):
    """A number of seconds.

    Attributes:
        zero: what 0 says, for the error; None where it may not be 0.
    """

    metavar: str = "SECONDS"
    zero: str | None = None

    @property
    def meaning(self) -> str:
        """What the value must be."""
        least = "more than 0" if self.zero is None else f"from 0, {self.zero}"
        return f"a number of seconds, {least}"

    def read(self, text: str) -> float:
        if re.fullmatch(r"[0-9]{0,9}\.?[0-9]{1,9}", text) is None:
            raise expected(self.meaning, text)
        return self._in_range(float(text))

    def take(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise expected(self.meaning, value)
        return self._in_range(float(value))

    def _in_range(self, number: float) -> float:
        if not (0 <= number < math.inf) or (number == 0 and self.zero is None):
            raise expected(self.meaning, number)
        return number


def _as_it_is(text: str) -> str:
    return text


@attrs.frozen
class Text(Kind[str]):
    """A text, as it is or as ``check`` returns it.

    Attributes:
        meaning: what the value must be.
        check: returns the value to use; raises ValueError for a text that cannot be meant, or
            BadValue to say more.
        secret: whether errors must not show it.
    """

    metavar: str
    meaning: str
    check: Callable[[str], str] = _as_it_is
    secret: bool = False

    def read(self, text: str) -> str:
        try:
            if not text:
                raise ValueError
            return self.check(text)
        except BadValue:
            raise
        except ValueError:
            if self.secret and text:
                raise BadValue(f"must be {self.meaning}") from None
            raise expected(self.meaning, text) from None

    def take(self, value: object) -> str:
        if not isinstance(value, str):
            raise expected(self.meaning, value)
        return self.read(value)


@attrs.frozen
class Choice(Kind[str]):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:  # type: ignore[override]  # read-only where the base class is free
        """What stands for the value in the help."""
        return "|".join(self.words)

    def read(self, text: str) -> str:
        if text not in self.words:
            raise expected(" or ".join(self.words), text)
        return text

    def take(self, value: object) -> str:
        if not isinstance(value, str):
            raise expected(" or ".join(self.words), value)
        return self.read(value)


@attrs.frozen
class Switch(Kind[bool]):
    """On or off."""

    metavar: str = ""

    def read(self, text: str) -> bool:
        match text.lower():
            case "1" | "true" | "yes" | "on":
                return True
            case "0" | "false" | "no" | "off":
                return False
            case _:
                raise expected("true or false", text)

    def take(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise expected("true or false", value)
        return value


@attrs.frozen
class Several(Kind[tuple[str, ...]]):
    """Any number of texts: a flag given again, a variable of words, a TOML array."""

    one: Text

    @property
    def metavar(self) -> str:  # type: ignore[override]  # read-only where the base class is free
        """What stands for the value in the help."""
        return self.one.metavar

    def read(self, text: str) -> tuple[str, ...]:
        return tuple(self.one.read(word) for word in re.split(r"[\s,]+", text.strip()) if word)

    def take(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise expected("an array of strings", value)
        return tuple(self.one.take(item) for item in value)


@attrs.frozen
class Paths(Several):
    """One file or several: a flag given again, a variable like PATH, a TOML string or array."""

    def read(self, text: str) -> tuple[str, ...]:
        return tuple(self.one.read(path) for path in text.split(os.pathsep) if path)

    def take(self, value: object) -> tuple[str, ...]:
        return Several.take(self, [value] if isinstance(value, str) else value)
