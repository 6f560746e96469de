"""Redis over TLS and with ACL users: what is accepted, and what an operator is told otherwise."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from tests.cluster.server import (
    EACH,
    Server,
    find_servers,
    free_port,
    redis_server,
    speaks_tls,
)
from trio_gateway.errors import ConfigurationError, StoreUnavailable
from trio_gateway.hub.broker import Publication

redis = pytest.importorskip("trio_gateway.hub.redis", reason="the extra redis is not installed")

TOPIC = "chat:a"
_GUIDE = Path(__file__).parents[2] / "docs" / "deployment.md"
#: What the guide gives a user.
RIGHTS = (
    *("resetchannels", "~trio-gateway:*", "&trio-gateway@*"),
    *("+@all", "-@admin", "-@dangerous", "+client|setname", "+info"),
)


def issue(authority: trustme.CA, folder: Path, *names: str) -> tuple[str, str]:
    """Return the files of a certificate and its key."""
    leaf = authority.issue_cert(*names)
    certificate, key = folder / f"{names[0]}.pem", folder / f"{names[0]}.key"
    leaf.private_key_pem.write_to_path(str(key))
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return str(certificate), str(key)


def program_with_tls() -> str:
    program = next(filter(speaks_tls, find_servers()), None)
    if program is None:
        pytest.skip("no redis-server that was built with TLS")
    return program


@attrs.define(eq=False)
class Secure:
    """A server that speaks TLS, with a certificate of a private authority."""

    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"rediss://localhost:{self.port}?deadline=5"


@attrs.frozen
class Certificates:
    """Those of a private authority, and how a server is started with them.

    Attributes:
        trusting: the option of a URL that names the authority.
        showing: the options that name a client's certificate.
    """

    folder: Path
    options: tuple[str, ...]
    trusting: str
    showing: str

    @contextmanager
    def server(self, *options: str) -> Generator[Secure, None, None]:
        """Run a server that speaks TLS; its plain port is for the test."""
        program, port = program_with_tls(), free_port()
        tls = ("--tls-port", str(port), *self.options)
        with redis_server(*tls, *options, program=program) as server:
            yield Secure(server, port)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    authority = trustme.CA()
    authorities = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(authorities)
    certificate, key = issue(authority, tmp_path, "localhost")
    mine, my_key = issue(authority, tmp_path, "client")
    return Certificates(
        tmp_path,
        (
            *("--tls-ca-cert-file", authorities),
            *("--tls-cert-file", certificate, "--tls-key-file", key),
        ),
        f"&ssl_ca_certs={authorities}",
        f"&ssl_certfile={mine}&ssl_keyfile={my_key}",
    )


_ANYBODY = ("--tls-auth-clients", "no")


async def use(url: str) -> list[bytes]:
    """Publish and hear it, and whatever else a node does."""
    found: list[Publication] = []
    async with redis.open_redis(url) as broker, trio.open_nursery() as nursery:
        assert broker.available, broker.problem
        await nursery.start(broker.run, found.append)
        await broker.subscribe(TOPIC)
        await broker.publish(TOPIC, b"x", key="k")
        assert 1 == await broker.advance(TOPIC, "ann", 1)
        assert 1 == len((await broker.history(TOPIC)).publications)
        broker.arrived(TOPIC, "ann")
        await broker.control(b"hello")
        with trio.fail_after(20):
            while (1, ["ann"]) != await broker.members(TOPIC, 9) or not found:  # noqa: ASYNC110 - of another process
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return [publication.payload for publication in found]


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - of another process
            await trio.sleep(0.01)


async def refusal(url: str) -> str:
    """Return what an operator is told, in one line."""
    with pytest.raises(ConfigurationError) as caught:
        async with redis.open_redis(url):
            raise AssertionError
    text = str(caught.value)
    assert "\n" not in text
    return text


async def test_tls_with_an_authority_of_ones_own(certificates: Certificates) -> None:
    """The URL names it; without that, the certificate is refused, with what to do."""
    with certificates.server(*_ANYBODY) as secure:
        assert [b"x"] == await use(secure.url + certificates.trusting)
        text = await refusal(secure.url)
    assert "its certificate is refused: self-signed certificate in certificate chain" in text
    assert "name its authority with ssl_ca_certs=FILE" in text


async def test_tls_to_a_server_of_another_name(certificates: Certificates) -> None:
    """Its certificate is refused, unless the URL says that the name does not matter."""
    with certificates.server(*_ANYBODY) as secure:
        elsewhere = secure.url.replace("localhost", "127.0.0.1") + certificates.trusting
        assert "is not valid for '127.0.0.1'" in await refusal(elsewhere)
        assert [b"x"] == await use(elsewhere + "&ssl_check_hostname=no")


async def test_tls_with_a_client_certificate(certificates: Certificates) -> None:
    """The URL names it; without one the operator is told that it is asked for.

    At the start or later: its alert may be lost behind the end of the connection.
    """
    with certificates.server("--tls-auth-clients", "yes") as secure:
        assert [b"x"] == await use(secure.url + certificates.trusting + certificates.showing)
        wanted = "it asks for a client certificate: ssl_certfile="
        try:
            async with redis.open_redis(secure.url + certificates.trusting) as broker:
                await until(lambda: wanted in broker.problem)
                told = broker.problem
        except ConfigurationError as error:
            told = str(error)
        assert wanted in told


async def test_tls_to_sentinels(certificates: Certificates) -> None:
    """To them and to the primary that they name; a certificate of theirs is refused as clearly."""
    with certificates.server(*_ANYBODY) as secure:
        port, folder = free_port(), certificates.folder
        words = [*certificates.options, *_ANYBODY, "--tls-replication", "yes"]
        lines = [f"{a[2:]} {b}" for a, b in zip(words[::2], words[1::2], strict=True)]
        sentinel = Server(secure.server.program, folder)
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {sentinel.port}\ntls-port {port}\n"
            + "\n".join(lines)
            + f"\nsentinel monitor main 127.0.0.1 {secure.port} 1\n"
        )
        sentinel.start([sentinel.program, str(configuration), "--sentinel"])
        try:
            url = f"rediss+sentinel://localhost:{port}/main?deadline=5"
            text = await refusal(url)
            # The sentinel names an address, and the certificate has a name.
            assert [b"x"] == await use(url + certificates.trusting + "&ssl_check_hostname=no")
        finally:
            sentinel.kill()
    assert "its certificate is refused: self-signed certificate in certificate chain" in text


async def test_sentinels_that_are_not_there() -> None:
    """What is wrong with them is told, and not that they know no primary."""
    url = f"redis+sentinel://127.0.0.1:{free_port()}/main?deadline=2"
    async with redis.open_redis(url) as broker:
        assert "Connection refused" in broker.problem


async def test_tls_in_a_cluster(certificates: Certificates) -> None:
    """Wherever a topic's slot is."""
    mode = ("--cluster-enabled", "yes", "--tls-cluster", "yes", *_ANYBODY)
    with certificates.server(*mode) as one, certificates.server(*mode) as two:
        for secure, slots in ((one, range(8_192)), (two, range(8_192, 16_384))):
            assert secure.server.ask("CLUSTER", "ADDSLOTS", *map(str, slots)).startswith("+OK")
            secure.server.ask("CLUSTER", "MEET", "127.0.0.1", str(one.port))
        for secure in (one, two):
            await until(lambda s=secure: "state:ok" in s.server.ask("CLUSTER", "INFO"))  # type: ignore[misc]  # a default that binds
        url = f"rediss+cluster://127.0.0.1:{two.port}?deadline=5&ssl_check_hostname=no"
        async with redis.open_redis(url + certificates.trusting) as broker:
            for number in range(10):
                assert 1 == (await broker.publish(f"chat:{number}", b"x")).offset
        assert all(":0" != secure.server.ask("DBSIZE").strip() for secure in (one, two))


def permit(server: Server, *rights: str) -> str:
    """Make a user who may do that, and nothing else; return its URL."""
    answer = server.ask("ACL", "SETUSER", "gateway", "reset", "on", ">s3cret", *rights)
    assert answer.startswith("+OK"), answer
    return f"redis://gateway:s3cret@127.0.0.1:{server.port}?deadline=5"


@pytest.mark.parametrize("program", EACH)
async def test_a_user_with_the_documented_rights(program: str | None) -> None:
    """They are enough for all that a gateway does, with each server."""
    assert f"ACL SETUSER gateway on >PASSWORD {' '.join(RIGHTS)}\n" in _GUIDE.read_text()
    with redis_server(program=program) as server:
        assert [b"x"] == await use(permit(server, *RIGHTS))


@pytest.mark.parametrize(
    "right, missing",
    [
        ("~trio-gateway:*", "keys"),
        ("&trio-gateway@*", "channels"),
        ("+@all", "command"),
    ],
)
async def test_a_user_who_lacks_a_right(right: str, missing: str) -> None:
    """It is told at the start, before anybody connects, and without the password."""
    with redis_server() as server:
        url = permit(server, *(one for one in RIGHTS if one != right))
        text = await refusal(url)
    assert "permissions" in text
    assert missing in text
    assert "s3cret" not in text


async def test_rights_that_are_taken_away() -> None:
    """From the next connection on the store is unavailable, and back when they are."""
    with redis_server() as server:
        url = permit(server, *RIGHTS).replace("deadline=5", "deadline=1")
        async with redis.open_redis(url) as broker:
            await broker.publish(TOPIC, b"x")
            permit(server, *(right for right in RIGHTS if right[0] != "&"))
            server.ask("CLIENT", "KILL", "USER", "gateway")
            await until(lambda: "channels" in str(broker.problem))
            with pytest.raises(StoreUnavailable):
                await broker.publish(TOPIC, b"y")
            permit(server, *RIGHTS)
            await until(lambda: broker.available)
            assert 2 == (await broker.publish(TOPIC, b"z")).offset
