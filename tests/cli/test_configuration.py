"""What configures a gateway, and what happens when it is wrong: one line and status 2."""

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.process import run, taken_port
from trio_gateway.cli import main
from trio_gateway.cli.flags import SETTINGS
from trio_gateway.cli.kinds import Whole
from trio_gateway.cli.options import serve_options
from trio_gateway.cli.sources import Setting, resolve
from trio_gateway.errors import ConfigurationError
from trio_gateway.settings import Drain, Heartbeat, Limits, Timeouts

Wrong = Callable[..., str]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[None, None, None]:
    """An environment without settings, a folder without files, logging as it was afterwards."""
    for name in list(os.environ):
        if name.startswith("TRIO_GATEWAY_") or name == "PORT":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    root, ours = logging.getLogger(), logging.getLogger("trio_gateway")
    handlers, level, our_level = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def wrong(capfd: pytest.CaptureFixture[str]) -> Wrong:
    """Runs the program, which must end with status 2 and one line on stderr; returns the line."""

    def run_wrong(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.endswith("\n")
        name, _, message = err.strip().partition(": ")
        assert name == "trio-gateway"
        return message

    return run_wrong


# Where a value comes from.


@given(st.lists(st.none() | st.integers(1, 10**6), min_size=3, max_size=3))
def test_flag_beats_environment_beats_file(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None]
) -> None:
    """The strongest source that has a value gives it, and errors would name it."""
    setting = Setting(name="max-things", kind=Whole("N"), default=0, help="Things.")
    flag, variable, key = values
    config = tmp_path_factory.getbasetemp() / "gateway.toml"
    config.write_text("" if key is None else f"max-things = {key}")
    found = resolve(
        [setting],
        {"config": str(config), "max_things": None if flag is None else str(flag)},
        {} if variable is None else {"TRIO_GATEWAY_MAX_THINGS": str(variable)},
    )["max_things"]
    origins = ["--max-things", "TRIO_GATEWAY_MAX_THINGS", f"{config}: max-things"]
    given_ones = [(v, o) for v, o in zip(values, origins, strict=True) if v is not None]
    assert (given_ones or [(0, "--max-things")])[0] == (found.value, found.origin)
    assert found.is_default == (not given_ones)


def test_without_anything_the_defaults_hold() -> None:
    """The defaults are those of the package's own settings."""
    options = serve_options({}, {})
    assert ("127.0.0.1", 3000, True, None) == (
        options.host,
        options.port,
        options.tcp,
        options.uds,
    )
    assert (Limits(), Timeouts(), Heartbeat(), Drain()) == (
        options.limits,
        options.timeouts,
        options.heartbeat,
        options.drain,
    )
    assert (None, None, False) == (
        options.api_token,
        options.allowed_origins,
        options.strict_paths,
    )


def test_every_setting_is_a_flag_a_variable_and_a_key(tmp_path: Path) -> None:
    """Each of them reads the same value."""
    examples: dict[str, Any] = {
        "host": "::1",
        "port": 1,
        "uds": "/tmp/s",
        "tls-cert": "c.pem",
        "tls-key": "k.pem",
        "tls-client-ca": "ca.pem",
        "store": "memory",
        "store-synchronous": "full",
        "history-messages": 8,
        "history-bytes": 9,
        "history-age": 10.5,
        "auth": "jwt",
        "jwt-key": ["k.pem"],
        "jwt-audience": ["chat"],
        "jwt-issuer": ["https://id.example"],
        "jwt-leeway": 17.5,
        "api-token": "secret",
        "allow-origin": ["https://example.com"],
        "strict-paths": True,
        "page": False,
        "workers": 1,
        "grace": 1.5,
        "handshake-timeout": 2.5,
        "max-connections": 3,
        "max-connections-per-ip": 4,
        "max-connections-per-user": 11,
        "ipv6-prefix": 56,
        "max-rooms": 12,
        "messages-per-second": 13,
        "bytes-per-second": 14,
        "joins-per-second": 15,
        "api-requests-per-second": 16,
        "trusted-proxy": ["10.0.0.0/8"],
        "proxy-header": "forwarded",
        "proxy-protocol": True,
        "max-message-size": 5,
        "outbox-bytes": 6,
        "heartbeat": 7,
        "log-format": "json",
    }
    # --listen stands instead of some of these; see test_listen.
    assert {setting.name for setting in SETTINGS} == examples.keys() | {"listen"}
    flags: dict[str, Any] = {}
    environ: dict[str, str] = {}
    lines: list[str] = []
    for name, value in examples.items():
        text = str(value[0] if isinstance(value, list) else value).lower()
        flag = value if isinstance(value, bool) else text
        flags[name.replace("-", "_")] = tuple(value) if isinstance(value, list) else flag
        environ["TRIO_GATEWAY_" + name.replace("-", "_").upper()] = text
        lines.append(f"{name} = {json.dumps(value)}")
    config = tmp_path / "gateway.toml"
    config.write_text("\n".join(lines))
    by_flag = serve_options(flags, {})
    by_variable = serve_options({}, environ)
    by_key = serve_options({"config": str(config)}, {})
    by_variable_key = serve_options({}, {"TRIO_GATEWAY_CONFIG": str(config)})
    network = ("host", "port", "uds", "tls_cert", "api_token", "allowed_origins")
    for field in (*network, "tokens", "limits", "rates", "hub", "proxies"):
        values = {
            getattr(options, field) for options in (by_flag, by_variable, by_key, by_variable_key)
        }
        assert len(values) == 1, field
    for options in (by_flag, by_variable, by_key, by_variable_key):
        assert (options.strict_paths, options.json_logs, options.drain.grace) == (True, True, 1.5)
        assert options.heartbeat.interval == 7.0
        assert options.timeouts.handshake_timeout == 2.5


def test_listen(tmp_path: Path) -> None:
    """Several addresses, by flag, variable and key; $PORT asks for nothing beside them."""
    urls = ("http://127.0.0.1:1", "http://[::1]:2", "unix:/tmp/a b")
    config = tmp_path / "gateway.toml"
    config.write_text(f"listen = {json.dumps(urls)}")
    assert urls == serve_options({"listen": urls}, {"PORT": "3"}).listen
    assert urls == serve_options({"config": str(config)}, {}).listen
    environ = {"TRIO_GATEWAY_LISTEN": " ".join(urls[:2])}
    assert urls[:2] == serve_options({}, environ).listen


def test_keys_may_have_underscores(tmp_path: Path) -> None:
    """``max_connections`` is ``max-connections``."""
    config = tmp_path / "gateway.toml"
    config.write_text("max_connections = 7")
    assert serve_options({"config": str(config)}, {}).limits.max_connections == 7


def test_port_is_the_weaker_variable() -> None:
    """$PORT counts unless the gateway's own variable is set; an empty variable is none."""
    assert serve_options({}, {"PORT": "1"}).port == 1
    assert serve_options({}, {"PORT": "1", "TRIO_GATEWAY_PORT": "2"}).port == 2
    assert serve_options({}, {"PORT": "1", "TRIO_GATEWAY_PORT": ""}).port == 1
    assert serve_options({}, {"PORT": ""}).port == 3000


def test_a_unix_socket_stands_alone_unless_a_port_is_asked_for() -> None:
    """$PORT, which a platform sets for everybody, asks for nothing."""
    assert serve_options({"uds": "s"}, {"PORT": "1"}).tcp is False
    assert serve_options({"uds": "s", "port": "0"}, {}).tcp is True
    assert serve_options({"uds": "s"}, {"TRIO_GATEWAY_PORT": "1"}).tcp is True


def test_a_flag_can_turn_a_switch_off() -> None:
    """--no-strict-paths beats the variable."""
    environ = {"TRIO_GATEWAY_STRICT_PATHS": "1"}
    assert serve_options({}, environ).strict_paths is True
    assert serve_options({"strict_paths": False}, environ).strict_paths is False


def test_no_heartbeat_is_0() -> None:
    """--heartbeat 0 turns it off."""
    assert serve_options({"heartbeat": "0"}, {}).heartbeat.interval == float("inf")


@pytest.mark.parametrize(
    "text, origin",
    [
        ("https://Example.com", "https://example.com"),
        ("https://example.com/", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("http://LOCALHOST:*", "http://localhost:*"),
        (r"re:https://.*\.example", r"re:https://.*\.example"),
        ("same-host", "same-host"),
        ("null", "null"),
        ("*", "*"),
    ],
)
def test_origins_are_as_browsers_send_them(text: str, origin: str) -> None:
    """Lower case, no slash, no default port (RFC 6454 §6.2)."""
    assert serve_options({"allow_origin": (text,)}, {}).allowed_origins == (origin,)


def test_key_files_are_separated_as_in_path(tmp_path: Path) -> None:
    """By a colon in a variable; in the file one is a string, several are an array."""
    environ = {"TRIO_GATEWAY_AUTH": "jwt", "TRIO_GATEWAY_JWT_KEY": "old key.pem:new.json"}
    config = tmp_path / "gateway.toml"
    config.write_text("auth = 'jwt'\njwt-key = 'old key.pem'")
    for options, keys in [
        (serve_options({}, environ), ("old key.pem", "new.json")),
        (serve_options({"config": str(config)}, {}), ("old key.pem",)),
    ]:
        assert options.tokens is not None
        assert keys == options.tokens.keys


def test_tokens_need_their_libraries(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyJWT the line says what to install."""
    monkeypatch.delitem(sys.modules, "trio_gateway.tokens", raising=False)
    monkeypatch.setitem(sys.modules, "jwt", None)
    message = wrong("--auth", "jwt", "--jwt-key", "key.pem")
    assert message == (
        "--auth: tokens need PyJWT and cryptography: pip install 'trio-gateway[jwt]'"
    )


# What is wrong.


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--port", "http"], "--port: must be a whole number from 0 to 65535, not 'http'"),
        (["--port", "65536"], "--port: must be a whole number from 0 to 65535, not 65536"),
        (["--port", "-1"], "--port: must be a whole number from 0 to 65535, not '-1'"),
        (["--port", "3000\n"], r"--port: must be a whole number from 0 to 65535, not '3000\n'"),
        (["--host", ""], "--host: must be a host name or an address, not ''"),
        (["--host", "a/b"], "--host: must be a host name or an address, not 'a/b'"),
        (["--grace", "0"], "--grace: must be a number of seconds, more than 0, not 0.0"),
        (["--grace", "nan"], "--grace: must be a number of seconds, more than 0, not 'nan'"),
        (["--heartbeat", "-1"], None),
        (["--max-connections", "0"], "--max-connections: must be a whole number from 1, not 0"),
        (["--max-message-size", "1M"], None),
        (["--log-format", "xml"], "--log-format: must be console or json, not 'xml'"),
        (["--api-token", "a b"], "--api-token: must be printable ASCII without spaces"),
        (["--api-token", ""], "--api-token: must be printable ASCII without spaces, not ''"),
        (["--allow-origin", "example.com"], None),
        (["--allow-origin", "https://u@example.com"], None),
        (["--allow-origin", "https://example.com/path"], None),
        (["--allow-origin", "https://example.com:port"], None),
        (
            ["--allow-origin", "re:("],
            (
                "--allow-origin: 're:(' is no regular expression: "
                "missing ), unterminated subpattern at position 0"
            ),
        ),
        (["--auth", "jwt"], "--auth: jwt needs --jwt-key with it"),
        (["--jwt-key", "key.pem"], "--jwt-key: needs --auth jwt with it"),
        (["--jwt-leeway", "1"], "--jwt-leeway: needs --auth jwt with it"),
        (["--auth", "jwt", "--jwt-key", ""], "--jwt-key: must be the path of a file, not ''"),
        (
            ["--auth", "jwt", "--jwt-key", "no.pem"],
            "--jwt-key: cannot read 'no.pem': No such file or directory",
        ),
        (
            ["--auth", "jwt", "--jwt-key", "/dev/null"],
            "--jwt-key: '/dev/null' is a secret of 0 bytes; 32 are the least",
        ),
        (["--tls-cert", "c"], "--tls-cert: needs --tls-key with it"),
        (["--tls-key", "k"], "--tls-key: needs --tls-cert with it"),
        (["--store", "mysql://x"], None),
        (["--store", "sqlite:"], None),
        (["--store", "sqlite::memory:"], None),
        (["--store", "sqlite:no/such/folder/chat.db", "--port", "0"], None),
        (["--store", "sqlite:/", "--port", "0"], None),
        (["--store-synchronous", "off"], None),
        (["--history-messages", "0"], None),
        (["--config", "no.toml"], "--config: cannot read 'no.toml': No such file or directory"),
        (["--config", "."], "--config: cannot read '.': Is a directory"),
        (["--config", "a\0b"], None),
        (["--prot", "1"], None),
        (["--port"], None),
        (["serve", "extra"], None),
        (["nothing"], None),
        (["verify"], None),
        (["verify", "nonsense"], None),
        (["verify", "http://"], None),
        (["verify", "http://host:port"], None),
        (["verify", "http://a..b"], None),
        (["verify", "ftp://127.0.0.1"], None),
        (["verify", "http://127.0.0.1", "--timeout", "0"], None),
        (["notify", "ann"], None),
        (["notify", "ann", "hi"], None),
        (["notify", "ann", "hi", "--token", "a\nb"], None),
        (["notify", "ann", "hi", "--token", "t", "--url", "x"], None),
    ],
)
def test_wrong_use_is_one_line(wrong: Wrong, arguments: list[str], message: str | None) -> None:
    """The line says which flag and what it must be."""
    found = wrong(*arguments)
    if message is not None:
        assert message == found
    elif len(arguments) > 1 and arguments[0].startswith("--"):
        assert arguments[0] in found


def test_a_bad_variable_is_named(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been set by something else, as Kubernetes does for a service of this name."""
    monkeypatch.setenv("TRIO_GATEWAY_PORT", "tcp://10.0.0.1:3000")
    assert wrong() == (
        "TRIO_GATEWAY_PORT: must be a whole number from 0 to 65535, not 'tcp://10.0.0.1:3000'"
    )
    monkeypatch.delenv("TRIO_GATEWAY_PORT")
    monkeypatch.setenv("PORT", "x")
    assert wrong().startswith("PORT: ")
    monkeypatch.setenv("TRIO_GATEWAY_CONFIG", "no.toml")
    assert wrong("--port", "0").startswith("TRIO_GATEWAY_CONFIG: cannot read 'no.toml'")


@pytest.mark.parametrize(
    "toml, message",
    [
        ("prot = 1", "gateway.toml: unknown key 'prot'; did you mean 'port'?"),
        ("config = 'x'", "gateway.toml: unknown key 'config'"),
        ("[limits]\nmax-connections = 1", "gateway.toml: unknown key 'limits'"),
        ("port = '3000'", "gateway.toml: port: must be a whole number from 0 to 65535, not '3000'"),
        ("port = true", "gateway.toml: port: must be a whole number from 0 to 65535, not True"),
        ("port = 3e3", "gateway.toml: port: must be a whole number from 0 to 65535, not 3000.0"),
        ("port = 70000", "gateway.toml: port: must be a whole number from 0 to 65535, not 70000"),
        ("grace = inf", "gateway.toml: grace: must be a number of seconds, more than 0, not inf"),
        ("strict-paths = 1", "gateway.toml: strict-paths: must be true or false, not 1"),
        ("allow-origin = '*'", "gateway.toml: allow-origin: must be an array of strings, not '*'"),
        (
            "allow-origin = ['x']",
            (
                "gateway.toml: allow-origin: must be scheme://host[:port or :*], re:REGEX, "
                "same-host, null or *, not 'x'"
            ),
        ),
        (
            "workers = 2",
            (
                "gateway.toml: workers: more than one needs a store that they share, and sqlite "
                "serves one process; use --store redis://…, or 1"
            ),
        ),
        (
            "max-connections = 1\nmax_connections = 2",
            "gateway.toml: max-connections is there twice, with - and with _",
        ),
        ("port = ", None),
        ("port = 1\nport = 2", None),
        ("x = " + "[" * 5000, None),
    ],
)
def test_a_wrong_file_is_named(
    wrong: Wrong, tmp_path: Path, toml: str, message: str | None
) -> None:
    """The line says which file and which key."""
    (tmp_path / "gateway.toml").write_text(toml)
    found = wrong("--config", "gateway.toml")
    assert "gateway.toml" in found
    if message is not None:
        assert message == found


def test_a_file_that_is_not_text_is_named(wrong: Wrong, tmp_path: Path) -> None:
    """TOML is UTF-8."""
    (tmp_path / "gateway.toml").write_bytes(b"\xff\xfe")
    assert wrong("--config", "gateway.toml") == "--config: 'gateway.toml' is not a TOML file"


def test_a_wrong_flag_is_told_though_the_variable_is_wrong_too(
    wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stronger source overrides is not looked at."""
    monkeypatch.setenv("TRIO_GATEWAY_GRACE", "x")
    assert wrong("--grace", "y").startswith("--grace: ")


# What shows only when it is used.


def test_a_port_in_use_is_one_line(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the port comes from, that is named."""
    with taken_port() as port:
        message = f"{port} on 127.0.0.1 is in use; choose another, or 0"
        assert wrong("--port", f"{port}") == f"--port: {message}"
        monkeypatch.setenv("PORT", f"{port}")
        assert wrong() == f"PORT: {message}"


@pytest.mark.parametrize(
    "host, message",
    [
        ("no-such-host.invalid", "there is no address for 'no-such-host.invalid'; check the name"),
        ("a" * 70, f"there is no address for '{'a' * 70}'; check the name"),
        ("192.0.2.1", "192.0.2.1 is not an address of this machine"),
    ],
)
def test_a_host_of_others_is_one_line(wrong: Wrong, host: str, message: str) -> None:
    """Unknown names, and addresses that are not this machine's (RFC 5737)."""
    assert wrong("--host", host, "--port", "0") == f"--host: {message}"


def test_a_privileged_port_is_one_line(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not everybody may listen below 1024."""

    def bind(_sock: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert wrong("--port", "80") == (
        "--port: this user may not listen on 80; choose one from 1024 on"
    )


def test_unusable_certificates_are_one_line(wrong: Wrong, tmp_path: Path) -> None:
    """Missing, not PEM, without a key, another's key, an encrypted key."""
    authority = trustme.CA()
    good, other = (authority.issue_cert("localhost") for _ in range(2))
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(part.bytes() for part in good.cert_chain_pems))

    def tried() -> str:
        return wrong("--port", "0", "--tls-cert", "cert.pem", "--tls-key", "key.pem")

    assert tried() == "--tls-key: cannot read 'key.pem': No such file or directory"
    key.write_bytes(b"no key")
    assert tried() == "--tls-key: 'key.pem' has no usable private key in PEM"
    key.write_bytes(other.private_key_pem.bytes())
    assert tried() == "--tls-key: is not the key of the certificate"
    key.write_bytes(_encrypted(good.private_key_pem.bytes()))
    assert tried() == "--tls-key: is encrypted; give one that is not"
    key.write_bytes(good.private_key_pem.bytes())
    certificate.write_bytes(b"no certificate")
    assert tried() == "--tls-cert: 'cert.pem' has no certificate in PEM"
    certificate.unlink()
    assert tried() == "--tls-cert: cannot read 'cert.pem': No such file or directory"


def _encrypted(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_an_unusable_unix_socket_is_one_line(wrong: Wrong, tmp_path: Path) -> None:
    """A path that is a file, is in use, is nowhere or too long; the file stays as it was."""
    file = tmp_path / "file"
    file.write_text("mine")
    assert wrong("--uds", "file") == (
        "--uds: cannot listen on 'file': it is there and is not a socket"
    )
    assert file.read_text() == "mine"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
        sock.listen()
        assert wrong("--uds", "socket") == (
            "--uds: cannot listen on 'socket': it is in use by another program"
        )
    assert wrong("--uds", "no/socket") == (
        "--uds: cannot listen on 'no/socket': No such file or directory"
    )
    assert wrong("--uds", "s" * 200).endswith("AF_UNIX path too long")


# The same as a process.


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
async def test_a_process_with_wrong_settings_ends_with_2(tmp_path: Path, source: str) -> None:
    """One line on stderr, nothing on stdout, no traceback."""
    config = tmp_path / "gateway.toml"
    config.write_text("port = 'x'")
    match source:
        case "flag":
            ended = await run("--port", "x")
            origin = "--port"
        case "variable":
            ended = await run(env={"TRIO_GATEWAY_PORT": "x"})
            origin = "TRIO_GATEWAY_PORT"
        case _:
            ended = await run("--config", str(config))
            origin = f"{config}: port"
    line = f"trio-gateway: {origin}: must be a whole number from 0 to 65535, not 'x'"
    assert (2, [], [line]) == (ended.status, ended.out, ended.err)


async def test_a_process_on_a_port_in_use_ends_with_2() -> None:
    """One line on stderr, nothing on stdout, no traceback."""
    with taken_port() as port:
        ended = await run("--port", f"{port}")
    line = f"trio-gateway: --port: {port} on 127.0.0.1 is in use; choose another, or 0"
    assert (2, [], [line]) == (ended.status, ended.out, ended.err)


def test_configuration_errors_are_the_packages_own() -> None:
    """A program that reads settings the same way catches one type."""
    with pytest.raises(ConfigurationError, match="--port: must be a whole number"):
        serve_options({"port": "x"}, {})


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting is in the help; help and version succeed."""
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    assert [] == [setting.flag for setting in SETTINGS if setting.flag not in text]
    for arguments in (["--help"], ["--version"], ["verify", "--help"], ["notify", "--help"]):
        assert main(arguments) == 0
