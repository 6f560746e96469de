"""The PROXY protocol, version 2: who a proxy speaks for, told in front of everything else.

In: the first bytes of a connection. Out: a ``Conveyed``, or how many more bytes it takes, or
``NotConveyed``. The rules: sans-I/O; nothing behind the header is asked for, so that a reader that
asks for no more than it is told leaves the TLS hello or the request where it is; the verdict comes
with the first byte that is wrong; the length is bounded.

The specification is HAProxy's ``doc/proxy-protocol.txt``, §2.2. Version 1 is not read.
"""

from ipaddress import IPv4Address, IPv6Address

import attrs

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_BYTES = 4096
"""Of a header: addresses take 216 at most, the rest is for TLVs, which nobody here reads."""

_FIXED = 16
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6, _UNIX = 0x11, 0x21, 0x31
# By family and transport: the bytes of its addresses. Datagrams cannot have come by a stream, but
# are valid; they and the unspecified tell nothing, as §2.2 has it.
_SIZES = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, _UNIX: 216, 0x32: 216}


class NotConveyed(ValueError):
    """These bytes begin no PROXY protocol header of version 2, or one that is wrong."""


@attrs.frozen
class Conveyed:
    """What a header says.

    Attributes:
        address: the client's, without its port; ``"unix"`` for a Unix socket; None where the header
            tells of no client: the proxy's own check, or an unknown protocol.
        size: the bytes of the header.
    """

    address: str | None
    size: int


def read_header(data: bytes | bytearray) -> Conveyed | int:
    """Return what a header says, or how many bytes are missing before more can be said.

    Arguments:
        data: all that has come, cut anywhere; what stands behind the header is not looked at.

    Raises:
        NotConveyed: no header can come of this.
    """
    signature = data[: len(SIGNATURE)]
    if not SIGNATURE.startswith(signature):
        raise NotConveyed("none of version 2")
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise NotConveyed(f"the version and command {data[12]:#04x}")
    if len(data) > 13 and data[13] not in _SIZES:
        raise NotConveyed(f"the family and transport {data[13]:#04x}")
    if len(data) < _FIXED:
        return _FIXED - len(data)
    command, family = data[12], data[13]
    length = int.from_bytes(data[14:16], "big")
    if _FIXED + length > MAX_BYTES:
        raise NotConveyed(f"{length} bytes in it")
    if command == _PROXY and length < _SIZES[family]:
        raise NotConveyed(f"{length} bytes for addresses of family {family:#04x}")
    if len(data) < _FIXED + length:
        return _FIXED + length - len(data)
    address = _address(family, bytes(data[16:32])) if command == _PROXY else None
    return Conveyed(address, _FIXED + length)


def _address(family: int, start: bytes) -> str | None:
    match family:
        case 0x11:
            return str(IPv4Address(start[:4]))
        case 0x21:
            address = IPv6Address(start)
            return str(address.ipv4_mapped or address)
        case 0x31:
            return "unix"
        case _:
            return None
