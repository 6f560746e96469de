"""TLS of a gateway: safe defaults, clients' certificates, and a renewal that nobody notices."""

import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from trio_websocket import open_websocket_url

from tests.cli.process import Running, gateway, run
from trio_gateway.cli.certificates import Certificate
from trio_gateway.cli.sources import Given
from trio_gateway.client.target import Target
from trio_gateway.errors import ConfigurationError


@attrs.frozen
class Files:
    """The certificate of a gateway, its key, and who believes it."""

    folder: Path
    authority: trustme.CA

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--tls-cert", str(self.certificate), "--tls-key", str(self.key))

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def issue(self) -> None:
        """Put a new pair in the place of the old one, as certbot does: each file at once."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        for path, data in ((self.certificate, chain), (self.key, issued.private_key_pem.bytes())):
            new = path.with_suffix(".new")
            new.write_bytes(data)
            new.rename(path)

    def client(self, *, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path, trustme.CA())
    files.issue()
    return files


async def connect(running: Running, context: ssl.SSLContext) -> "trio.SSLStream[trio.SocketStream]":
    stream = trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", running.port),
        context,
        server_hostname="127.0.0.1",
        https_compatible=True,
    )
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def serial(running: Running, files: Files) -> str:
    """Return the serial number of the certificate that a new client is shown."""
    async with await connect(running, files.client()) as stream:
        shown = stream.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


async def test_defaults(files: Files) -> None:
    """TLS 1.2 and 1.3 with forward secrecy; HTTP/1.1 by ALPN; whoever wants h2 alone gets none."""
    async with gateway(*files.arguments) as running:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = files.client()
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"])
            async with await connect(running, context) as stream:
                assert "http/1.1" == stream.selected_alpn_protocol()
                cipher = stream.cipher()
                assert cipher is not None
                assert version is ssl.TLSVersion.TLSv1_3 or "DHE" in cipher[0]
        old = files.client()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(trio.BrokenResourceError):
            await connect(running, old)
        h2 = files.client()
        h2.set_alpn_protocols(["h2"])
        async with await connect(running, h2) as stream:
            assert stream.selected_alpn_protocol() is None


async def test_plain_http_on_the_tls_port(files: Files) -> None:
    """It is answered in plain HTTP, and told what to do."""
    async with gateway(*files.arguments) as running:
        plain = Target.parse(f"http://127.0.0.1:{running.port}")
        answer = await plain.request("GET", "/")
        assert (400, "plain_http_on_tls_port") == (answer.status, _error(answer.json()))


def _error(body: object) -> object:
    assert isinstance(body, dict)
    return body["error"]


@pytest.mark.parametrize("way", ["SIGHUP", "change"])
async def test_a_renewal(files: Files, way: str) -> None:
    """New clients are shown the new certificate, within a second or at once; nobody is dropped."""
    async with gateway(*files.arguments) as running:
        await running.err.until("serving")
        before = await serial(running, files)
        url = running.url.replace("https", "wss")
        async with open_websocket_url(url + "/", files.client()) as connection:
            await connection.get_message()
            files.issue()
            if way == "SIGHUP":
                running.process.send_signal(signal.SIGHUP)
                await running.err.until("read again")
                assert before != await serial(running, files)
            else:
                with trio.fail_after(10):
                    while before == await serial(running, files):  # noqa: ASYNC110 - another process's event
                        await trio.sleep(0.2)
            await connection.get_message()
            await connection.send_message('{"type":"members","room":"lobby","id":1}')
            assert '"members"' in str(await connection.get_message())


async def test_a_broken_renewal(files: Files) -> None:
    """The certificate stays the one it was, one line says why; then a good one counts again."""
    async with gateway(*files.arguments) as running:
        before = await serial(running, files)
        files.certificate.write_text("no certificate")
        running.process.send_signal(signal.SIGHUP)
        assert "has no certificate" in await running.err.until("stays the one it was")
        assert before == await serial(running, files)
        files.issue()
        running.process.send_signal(signal.SIGHUP)
        await running.err.until("read again")
        assert before != await serial(running, files)


async def test_clients_certificates(files: Files) -> None:
    """Who shows one of the authority is let in; nobody else gets as far as HTTP."""
    clients, strangers = trustme.CA(), trustme.CA()
    ca = files.folder / "clients.pem"
    clients.cert_pem.write_to_path(ca)
    async with gateway(*files.arguments, "--tls-client-ca", str(ca)) as running:
        known = files.client(certificate=clients.issue_cert("ann@example.com"))
        async with await connect(running, known) as stream:
            assert b"200" in await _ask(stream)
        for context in (
            files.client(),
            files.client(certificate=strangers.issue_cert("eve@example.com")),
        ):
            # In TLS 1.3 the client learns of it after its own handshake.
            with suppress(trio.BrokenResourceError):
                stream = await connect(running, context)
                try:
                    assert b"" == await _ask(stream)
                finally:
                    await trio.aclose_forcefully(stream)


async def _ask(stream: trio.abc.Stream) -> bytes:
    await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return bytes(await stream.receive_some())


async def test_an_unusable_authority(files: Files) -> None:
    """One line, and status 2."""
    ca = files.folder / "ca.pem"
    ca.write_text("nothing")
    for arguments, said in (
        ((*files.arguments, "--tls-client-ca", str(ca)), "has no certificate in PEM"),
        (("--tls-client-ca", str(ca)), "--tls-client-ca: needs --tls-cert with it"),
    ):
        ended = await run("--port", "0", *arguments)
        assert (2, 1) == (ended.status, len(ended.err))
        assert said in ended.err[0]


def given(files: Files) -> tuple[Given, Given, Given]:
    return (
        Given(str(files.certificate), "--tls-cert"),
        Given(str(files.key), "--tls-key"),
        Given(None, "--tls-client-ca", is_default=True),
    )


def test_looking_is_cheap(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at once a second however many clients come, read only when they change."""
    now = 0.0
    certificate = Certificate(*given(files), clock=lambda: now)
    looks: list[None] = []
    stat = Certificate._stat

    def look(self: Certificate) -> object:
        looks.append(None)
        return stat(self)

    monkeypatch.setattr(Certificate, "_stat", look)
    first = certificate.context()
    for _ in range(1000):
        assert first is certificate.context()
    assert [] == looks
    now = 1.0
    assert first is certificate.context()
    assert [None] == looks
    files.issue()
    assert first is certificate.context()
    now = 2.0
    assert first is not certificate.context()


def test_half_a_renewal(files: Files) -> None:
    """Between the two renames the old pair counts."""
    now = 0.0
    certificate = Certificate(*given(files), clock=lambda: now)
    first = certificate.context()
    old_key = files.key.read_bytes()
    files.issue()
    new_key = files.key.read_bytes()
    files.key.write_bytes(old_key)
    for later in (1.0, 2.0, 3.0):
        now = later
        assert first is certificate.context()
    files.key.write_bytes(new_key)
    now = 4.0
    assert first is not certificate.context()


def test_a_certificate_that_is_gone(files: Files) -> None:
    """At the start that is an error; later the one that was there counts."""
    now = 0.0
    certificate = Certificate(*given(files), clock=lambda: now)
    first = certificate.context()
    files.key.unlink()
    now = 1.0
    assert first is certificate.context()
    with pytest.raises(ConfigurationError, match="No such file"):
        Certificate(*given(files))


# Several listeners.


async def test_several_addresses(files: Files, tmp_path: Path) -> None:
    """TLS, plain HTTP and a Unix socket at once, each in the start line."""
    path = tmp_path / "s"
    listen = ("https://127.0.0.1:0", "http://localhost:0", f"unix:{path}")
    flags = [word for url in listen for word in ("--listen", url)]
    async with gateway(*files.arguments, *flags) as running:
        urls = [*running.urls]
        assert ["https", "http", "http+unix"] == [url.partition(":")[0] for url in urls]
        async with await _dial(urls[0], files) as stream:
            assert b"200" in await _ask(stream)
        for url in urls[1:]:
            assert 200 == (await Target.parse(url).request("GET", "/healthz")).status
        assert await running.terminate() == 0
        assert not path.exists()


async def _dial(url: str, files: Files) -> "trio.SSLStream[trio.SocketStream]":
    target = Target.parse(url)
    stream = await trio.open_tcp_stream("127.0.0.1", int(target.authority.rpartition(":")[2]))
    return trio.SSLStream(
        stream, files.client(), server_hostname="127.0.0.1", https_compatible=True
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--listen", "127.0.0.1:0"), "must be http://HOST:PORT, https://HOST:PORT or unix:PATH"),
        (("--listen", "https://x:0"), "--listen: https needs --tls-cert and --tls-key with it"),
        (
            ("--listen", "http://localhost:0", "--port", "1"),
            "--port: cannot be given beside --listen; name all addresses there",
        ),
        (
            ("--listen", "http://localhost:0", "--listen", "http://localhost:0"),
            "--listen: names one address twice",
        ),
    ],
)
async def test_wrong_addresses(arguments: tuple[str, ...], said: str) -> None:
    """One line, and status 2."""
    ended = await run(*arguments)
    assert (2, 1) == (ended.status, len(ended.err))
    assert said in ended.err[0]


async def test_an_address_in_use_is_named() -> None:
    """The line says which of several."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        ended = await run("--listen", "http://127.0.0.1:0", "--listen", f"http://127.0.0.1:{port}")
    assert (2, 1) == (ended.status, len(ended.err))
    assert f"--listen: {port} on 127.0.0.1 is in use" in ended.err[0]
