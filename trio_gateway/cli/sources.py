"""Where a setting comes from: its flag, its variable, its key in the file, or its default.

In: a table of settings, the flags given, the environment, a TOML file. Out: for each setting a
value and its origin, in words. The rule: flag beats environment beats file, and every error is one
line that begins with the origin of the value it is about.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import attrs
import click

from trio_gateway.cli.kinds import BadValue, Kind, Several, Switch
from trio_gateway.errors import ConfigurationError

PREFIX = "TRIO_GATEWAY_"
_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Setting(Generic[_T]):
    """One setting: a flag, a variable and a key.

    Attributes:
        name: the flag without its dashes, for example ``"max-connections"``; also the key.
        kind: what values it has.
        default: the value where none is given.
        help: a phrase for ``--help``.
        shown: the default as the help shows it; None for none.
        also: variables that count where the setting's own is not set.
    """

    name: str
    kind: Kind[_T]
    default: _T
    help: str
    shown: str | None = None
    also: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The flag."""
        return f"--{self.name}"

    @property
    def field(self) -> str:
        """The name as an identifier."""
        return self.name.replace("-", "_")

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables, the strongest first."""
        return (variable_of(self.name), *self.also)

    def option(self) -> click.Option:
        """Return the flag for click, which takes it as text; reading it is ``resolve()``'s."""
        text = f"{self.help}  [{self.shown}]" if self.shown else self.help
        if isinstance(self.kind, Switch):
            declaration = f"{self.flag}/--no-{self.name}"
            return click.Option([declaration, self.field], default=None, help=text)
        return click.Option(
            [self.flag, self.field],
            type=str,
            metavar=self.kind.metavar,
            multiple=isinstance(self.kind, Several),
            help=text,
        )


@attrs.frozen
class Given:
    """The value of a setting, and where it comes from.

    Attributes:
        value: what the setting's kind made of it.
        origin: for people: ``--port``, ``TRIO_GATEWAY_PORT``, ``gateway.toml: port``.
        is_default: whether nobody gave it.
        ambient: whether it comes from a variable that is not the gateway's own, like ``PORT``.
    """

    value: Any
    origin: str
    is_default: bool = False
    ambient: bool = False

    def wrong(self, message: str) -> ConfigurationError:
        """Return the error that says what is wrong with the value, naming its origin."""
        return ConfigurationError(f"{self.origin}: {message}")


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.replace("-", "_").upper()


def resolve(
    settings: Iterable[Setting[Any]],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
) -> dict[str, Given]:
    """Return every setting's value by its field.

    Arguments:
        settings: the table.
        flags: click's parameters: None, or an empty tuple, for a flag that was not given. Among
            them ``config``, the path of the TOML file: the one setting that no file can have.
        environ: the environment; an empty variable is none.

    Raises:
        ConfigurationError: a value or a key is wrong, or the file cannot be read.
    """
    table = {setting.name: setting for setting in settings}
    config = _config(flags.get("config"), environ)
    keys = {} if config is None else _read_keys(config, table)
    return {
        setting.field: _find(setting, flags.get(setting.field), environ, keys)
        for setting in table.values()
    }


def unknown_variables(
    settings: Iterable[Setting[Any]], environ: Mapping[str, str], known: Iterable[str]
) -> list[str]:
    """Return the gateway's variables in ``environ`` that mean nothing, for a warning.

    They are no error: an orchestrator sets variables named after its services.
    """
    meant = {variable for setting in settings for variable in setting.variables}
    meant.update(variable_of(name) for name in known)
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in meant)


def _find(
    setting: Setting[_T],
    flag: str | bool | tuple[str, ...] | None,
    environ: Mapping[str, str],
    keys: Mapping[str, Given],
) -> Given:
    kind = setting.kind
    if flag is not None and flag != ():
        value = list(flag) if isinstance(flag, tuple) else flag
        read = kind.read if isinstance(value, str) else kind.take
        return _read(Given(value, setting.flag), read)
    for variable in setting.variables:
        text = environ.get(variable)
        if text:
            return _read(Given(text, variable, ambient=variable in setting.also), kind.read)
    if setting.name in keys:
        return _read(keys[setting.name], kind.take)
    return Given(setting.default, setting.flag, is_default=True)


def _read(given: Given, read: Callable[[Any], object]) -> Given:
    try:
        return attrs.evolve(given, value=read(given.value))
    except BadValue as error:
        raise given.wrong(str(error)) from None


def _config(flag: str | None, environ: Mapping[str, str]) -> Given | None:
    if flag is not None:
        return Given(flag, "--config")
    path = environ.get(variable_of("config"))
    return Given(path, variable_of("config")) if path else None


def _read_keys(config: Given, table: Mapping[str, Setting[Any]]) -> dict[str, Given]:
    path: str = config.value
    keys: dict[str, Given] = {}
    for key, value in _parse(config).items():
        name = key.replace("_", "-")
        if name not in table:
            raise ConfigurationError(f"{path}: unknown key {key!r}{_suggest(name, table)}")
        if name in keys:
            raise ConfigurationError(f"{path}: {name} is there twice, with - and with _")
        keys[name] = Given(value, f"{path}: {key}")
    return keys


def _parse(config: Given) -> dict[str, Any]:
    path: str = config.value
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise config.wrong(f"cannot read {path!r}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}") from None
    except (ValueError, RecursionError):  # bad UTF-8, a null byte in the path, a thousand brackets
        raise config.wrong(f"{path!r} is not a TOML file") from None


def _suggest(name: str, table: Mapping[str, Setting[Any]]) -> str:
    close = difflib.get_close_matches(name, table, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
