"""The service's own TLS: a certificate and its key, checked at the start and read again when they change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from recllm.base.errors import UsageError

logger = logging.getLogger(__name__)


class ServerCertificate:
    """The certificate of the service, for TLS 1.2 and newer.

    certificate: a PEM file with the certificate and those between it and its root. key: its private key, without a
    passphrase; None where it is in the same file. Raises `UsageError` for files that cannot be used.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate, self._key = certificate, key or certificate
        self._loaded = self._state()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(self.context)

    async def renew(self) -> None:
        """Reads changed files again, for new connections; unusable ones are logged, and the old ones stay."""
        try:
            state = self._state()
            if state == self._loaded:
                return
            self._loaded = state
            self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))  # on trial: half of a pair may be there yet
            self._load(self.context)
            logger.warning("another certificate is shown from now on")
        except UsageError as error:
            logger.error("the old certificate stays in use: %s", error)

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file is written or exchanged."""
        try:
            stats = [path.stat() for path in (self._certificate, self._key)]
        except OSError as error:
            raise _unreadable(error) from error
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _load(self, context: ssl.SSLContext) -> None:
        def no_passphrase() -> str:
            raise UsageError(
                f"the private key {self._key} has a passphrase; give one without, which only its owner reads"
            )

        try:
            for path in (self._certificate, self._key):
                path.read_bytes()  # OpenSSL does not say which one is missing
            context.load_cert_chain(self._certificate, self._key, password=no_passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UsageError(
                    f"{self._key} is not the private key of {self._certificate}; give the two that belong together"
                ) from error
            raise UsageError(
                f"{self._certificate} and {self._key} are not a certificate and a private key in PEM ({error.reason}); "
                "they begin with -----BEGIN"
            ) from error
        except OSError as error:
            raise _unreadable(error) from error


def _unreadable(error: OSError) -> UsageError:
    return UsageError(
        f"{error.filename} cannot be read ({error.strerror}); see service.certificate and service.certificate_key"
    )
