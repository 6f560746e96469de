"""Who is at the other end: addresses that never raise, whatever the socket."""

import socket
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from trio_websocket import Endpoint


def endpoint(address: Any, *, is_ssl: bool) -> Endpoint | str:
    """Return a socket address as trio-websocket shows it, or as text where it has no port.

    Arguments:
        address: what ``getsockname()``, ``getpeername()`` or ``accept()`` gave.
        is_ssl: whether TLS is spoken there.
    """
    if isinstance(address, tuple) and len(address) >= 2:
        try:
            return Endpoint(address[0], address[1], is_ssl)
        except ValueError:
            return f"{address[0]}:{address[1]}"
    if isinstance(address, bytes):
        address = address.decode("utf-8", "backslashreplace")
    return f"unix:{address}" if address else "unix:"


def plain_address(address: str) -> str:
    """Return an IP address as its owner writes it: no zone, and IPv4 where IPv6 only carries it."""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped or found)


def owned_by(address: str, ipv6_prefix: int) -> str:
    """Return what limits count an address as: itself, or the network of so many bits around it."""
    if ":" not in address:
        return address
    address = plain_address(address)
    try:
        return str(IPv6Network((address, ipv6_prefix), strict=False))
    except ValueError:  # IPv4 after all, or no address
        return address


def local_address(sock: Any) -> Any:
    """Return ``sock.getsockname()``, or ``""`` for a socket that is already gone."""
    try:
        return sock.getsockname()
    except OSError:
        return ""


def remote_address(sock: Any) -> Any:
    """Return ``sock.getpeername()``, or ``""`` when the peer has already left."""
    try:
        return sock.getpeername()
    except OSError:
        return ""


def is_tcp(sock: Any) -> bool:
    """Say whether a socket is TCP over IPv4 or IPv6."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)
