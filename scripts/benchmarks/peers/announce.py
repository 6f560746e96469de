"""What every peer says and is asked."""

import ssl
import sys
from typing import Literal

Role = Literal["echo", "broadcast"]


def role() -> Role:
    """The role asked for on the command line."""
    match sys.argv[1:]:
        case ["echo", *_]:
            return "echo"
        case ["broadcast", *_]:
            return "broadcast"
        case _:
            sys.exit(f"usage: {sys.argv[0]} echo|broadcast [CERTIFICATE KEY]")


def tls() -> ssl.SSLContext | None:
    """What the standard library makes of the certificate and key on the command line, if any."""
    match sys.argv[2:]:
        case [certificate, key]:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, key)
            return context
        case _:
            return None


def listening(port: int) -> None:
    """Tell the runner where."""
    print(f"listening on http://127.0.0.1:{port}", flush=True)
