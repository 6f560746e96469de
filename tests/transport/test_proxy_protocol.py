"""PROXY protocol headers, version 2: read as they are written, however they are cut."""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.transport.proxy_protocol import (
    MAX_BYTES,
    SIGNATURE,
    Conveyed,
    NotConveyed,
    read_header,
)

PORTS = struct.pack("!HH", 51234, 443)


def header(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def tcp4(source: str) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET, source) + b"\x0a\x00\x00\x01"
    return header(0x21, 0x11, addresses + PORTS)


def cut(data: bytes) -> Conveyed | int:
    """Feed a header as a reader asks for it."""
    taken = 0
    while isinstance(found := read_header(data[:taken]), int):
        assert found > 0
        if taken == len(data):
            return found
        taken = min(taken + found, len(data))
    assert found.size <= taken
    return found


tlvs = st.binary(max_size=200)
addresses = st.one_of(
    st.ip_addresses(v=4).map(
        lambda ip: (str(ip), 0x11, ip.packed + bytes(4) + PORTS),
    ),
    st.ip_addresses(v=6).map(
        lambda ip: (
            str(IPv6Address(ip).ipv4_mapped or ip),
            0x21,
            ip.packed + bytes(16) + PORTS,
        ),
    ),
    st.just(("unix", 0x31, b"/run/a.sock".ljust(108, b"\0") * 2)),
    st.sampled_from([0x12, 0x22, 0x32]).map(lambda family: (None, family, bytes(216))),
    st.binary(max_size=40).map(lambda body: (None, 0x00, body)),
)


@given(addresses, tlvs, st.binary(max_size=40))
def test_what_is_written_is_read(
    written: tuple[str | None, int, bytes], tlv: bytes, rest: bytes
) -> None:
    """Address and size come out, TLVs are skipped, and what stands behind does not matter."""
    address, family, body = written
    data = header(0x21, family, body + tlv)
    assert Conveyed(address, len(data)) == read_header(data + rest)
    assert Conveyed(address, len(data)) == cut(data)


@given(addresses, tlvs)
def test_a_reader_is_never_asked_for_too_much(
    written: tuple[str | None, int, bytes], tlv: bytes
) -> None:
    """Of every beginning it says how many bytes are missing, and never more than are."""
    data = header(0x21, written[1], written[2] + tlv)
    for size in range(len(data)):
        missing = read_header(data[:size])
        assert isinstance(missing, int)
        assert 1 <= missing <= len(data) - size
        if size >= 16:
            assert missing == len(data) - size


@given(st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32]), st.binary(max_size=300))
def test_local_tells_of_nobody(family: int, body: bytes) -> None:
    """The proxy's own check: whatever stands behind is skipped."""
    data = header(0x20, family, body)
    assert Conveyed(None, len(data)) == read_header(data)


@given(st.binary(max_size=300))
def test_nothing_else_raises(data: bytes) -> None:
    """Any bytes: a header, a number of bytes, or NotConveyed; the same however they are cut."""
    for start in (b"", SIGNATURE, SIGNATURE + b"\x21\x11"):
        try:
            whole: object = read_header(start + data)
        except NotConveyed:
            whole = None
        verdicts: list[object] = []
        for size in range(len(start + data) + 1):
            try:
                verdicts.append(read_header((start + data)[:size]))
            except NotConveyed:
                verdicts.append(None)
        assert whole == verdicts[-1]
        # A verdict stands: what is refused stays refused, what is read stays as it was read.
        final = [verdict for verdict in verdicts if not isinstance(verdict, int)]
        assert len(set(final)) <= 1


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\nG",
        header(0x11, 0x11, bytes(12)),
        header(0x22, 0x11, bytes(12)),
        header(0x21, 0x13, bytes(12)),
        header(0x21, 0x41, bytes(12)),
        header(0x21, 0x11, bytes(11)),
        header(0x21, 0x21, bytes(35)),
        header(0x21, 0x31, bytes(215)),
        SIGNATURE + b"\x21\x11" + struct.pack("!H", MAX_BYTES),
        SIGNATURE + b"\x20\x00\xff\xff",
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    """HTTP, TLS, version 1, unknown commands and families, too short, too long."""
    with pytest.raises(NotConveyed):
        read_header(data)


def test_addresses_are_written_one_way() -> None:
    """IPv4 that IPv6 carries is IPv4."""
    mapped = IPv6Address("::ffff:192.0.2.1").packed
    found = read_header(header(0x21, 0x21, mapped + bytes(16) + PORTS))
    assert isinstance(found, Conveyed)
    assert str(IPv4Address("192.0.2.1")) == found.address
    assert Conveyed("192.0.2.9", 28) == read_header(tcp4("192.0.2.9"))
