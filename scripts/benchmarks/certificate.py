"""The certificate of the servers that speak TLS: made for each run, of a CA that nobody keeps."""

import trustme

from .packages import BENCH

CERTIFICATE = BENCH / "certificate.pem"
KEY = BENCH / "key.pem"


def make_certificate() -> None:
    """An ECDSA P-256 certificate for 127.0.0.1, and its key."""
    made = trustme.CA().issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(str(CERTIFICATE))
    made.private_key_pem.write_to_path(str(KEY))
