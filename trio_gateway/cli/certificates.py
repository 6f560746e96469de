"""The certificate of ``serve``, read again when it changes: a renewal needs no restart.

In: the paths of ``--tls-cert``, ``--tls-key`` and ``--tls-client-ca``. Out: the TLS context for the
next handshake. The rules: looking costs a ``stat`` a file, at most once a second; connections keep
the context they began with; files that cannot be used leave the one that was there, and say so
once, for the two files of a pair are never replaced in the same instant.
"""

import os
import ssl
import time
from collections.abc import Callable

import structlog

from trio_gateway.cli.options import ServeOptions
from trio_gateway.cli.sources import Given
from trio_gateway.errors import ConfigurationError

_LOOK_EVERY = 1.0
_log = structlog.stdlib.get_logger("trio_gateway.cli")
_Stamp = tuple[int, int, int, int] | None


class Certificate:
    """What a TLS listener shows its clients, and asks of them.

    Arguments:
        certificate: where the chain is.
        key: where its private key is.
        client_ca: where the authorities of clients' certificates are; its value is None where
            clients need none.
        clock: seconds that go on evenly.

    Raises:
        ConfigurationError: a file cannot be read or used.
    """

    def __init__(
        self,
        certificate: Given,
        key: Given,
        client_ca: Given,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = (certificate, key, client_ca)
        self._clock = clock
        self._looked = clock()
        self._stamps = self._stat()
        self._context = _read(*self._files)

    @classmethod
    def of(cls, options: ServeOptions) -> "Certificate | None":
        """Return the one that was asked for; raises ConfigurationError."""
        given = options.given
        if options.tls_cert is None:
            return None
        return cls(given["tls_cert"], given["tls_key"], given["tls_client_ca"])

    def context(self) -> ssl.SSLContext:
        """Return the context for the next handshake; blocks for a ``stat`` or a small file."""
        now = self._clock()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            if self._stat() != self._stamps:
                self.reload()
        return self._context

    def reload(self) -> None:
        """Read the files now; those that cannot be used leave the context as it is. Blocks."""
        self._stamps = self._stat()
        try:
            self._context = _read(*self._files)
        except ConfigurationError as error:
            _log.error("the certificate stays the one it was", reason=str(error))
        else:
            _log.info("the certificate was read again", file=self._files[0].value)

    def _stat(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(file.value) for file in self._files)


def _stamp(path: str | None) -> _Stamp:
    if path is None:
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _read(certificate: Given, key: Given, client_ca: Given) -> ssl.SSLContext:
    for given in (certificate, key, client_ca):
        _check_readable(given)
    # Python's own choice of ciphers: those with forward secrecy first, none that are broken.
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: TLS 1.0 and 1.1 are over
    context.set_alpn_protocols(["http/1.1"])

    def password() -> str:
        raise key.wrong("is encrypted; give one that is not")

    try:
        context.load_cert_chain(certificate.value, key.value, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise key.wrong("is not the key of the certificate") from None
        if _has_certificate(certificate):
            raise key.wrong(f"{key.value!r} has no usable private key in PEM") from None
        raise certificate.wrong(f"{certificate.value!r} has no certificate in PEM") from None
    if client_ca.value is not None:
        try:
            context.load_verify_locations(client_ca.value)
        except ssl.SSLError:
            raise client_ca.wrong(f"{client_ca.value!r} has no certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(given: Given) -> None:
    if given.value is None:
        return
    try:
        with open(given.value, "rb"):
            pass
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise given.wrong(f"cannot read {given.value!r}: {reason}") from None


def _has_certificate(certificate: Given) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate.value)
    except ssl.SSLError:
        return False
    return True
