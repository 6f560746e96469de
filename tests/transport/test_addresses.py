"""Addresses never raise, whatever the socket is and whatever has become of it."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.fakes import url
from trio_gateway.transport.addresses import endpoint, is_tcp, local_address, remote_address


@pytest.mark.parametrize(
    "address, is_ssl, expected",
    [
        (("192.0.2.1", 80), False, "ws://192.0.2.1"),
        (("192.0.2.1", 443), True, "wss://192.0.2.1"),
        (("192.0.2.1", 3000), True, "wss://192.0.2.1:3000"),
        (("2001:db8::1", 3000, 0, 0), False, "ws://[2001:db8::1]:3000"),
        (("fe80::1%eth0", 3000, 0, 2), False, "ws://[fe80::1%eth0]:3000"),
        (("no address", 3000), False, "no address:3000"),
        ("", False, "unix:"),
        ("/run/gateway", False, "unix:/run/gateway"),
        (b"\0abstract\xff", False, "unix:\0abstract\\xff"),
        (None, False, "unix:"),
    ],
)
def test_endpoints(address: object, is_ssl: bool, expected: str) -> None:
    """An endpoint where there is a port, text where there is none."""
    assert expected == url(endpoint(address, is_ssl=is_ssl))


@given(
    st.one_of(
        st.none(),
        st.text(),
        st.binary(),
        st.tuples(st.text(), st.integers()),
        st.tuples(st.text(), st.integers(), st.integers(), st.integers()),
        st.tuples(st.text()),
    )
)
def test_no_address_raises(address: object) -> None:
    """Any text, bytes or tuple has a name."""
    assert str(endpoint(address, is_ssl=False))


def test_both_ends_of_a_socket() -> None:
    """The peer's address is gone with the peer's RST or the socket, and reads as empty then."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, peer = listening.accept()
    assert (theirs.getpeername(), peer) == (local_address(ours), remote_address(ours))
    assert is_tcp(ours)
    ours.close()
    theirs.close()
    assert ("", "") == (local_address(ours), remote_address(ours))


def test_unix_sockets(tmp_path: Path) -> None:
    """A Unix socket has a path or nothing, and is no TCP."""
    with socket.socket(socket.AF_UNIX) as sock:
        assert ("", "") == (local_address(sock), remote_address(sock))
        sock.bind(str(tmp_path / "gateway"))
        assert str(tmp_path / "gateway") == local_address(sock)
        assert not is_tcp(sock)
