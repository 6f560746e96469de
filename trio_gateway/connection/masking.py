"""Masking (RFC 6455 §5.3): in C where ``websockets`` is installed, by integer XOR otherwise."""

from collections.abc import Callable

Masker = Callable[[bytes, bytes], bytes]


def xor_mask(data: bytes, mask: bytes) -> bytes:
    """Return ``data`` with ``mask``, four bytes, applied; its own inverse."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def _fastest() -> Masker:
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        return xor_mask
    return apply_mask


apply_mask: Masker = _fastest()
