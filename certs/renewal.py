"""Certificates that are renewed while a program runs: read anew when their files have changed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.certs.credentials import CERTIFICATE_FILE, KEY_FILE, TRUST_FILE, Credentials, expiry_warning
from edge_mqtt.certs.errors import CredentialsUnusable

log = logging.getLogger(__name__)

#: Between two warnings that a certificate expires soon.
WARN_EVERY: Final = timedelta(days=1)

#: What of a file tells that it is another one: number, time of writing, size; None: it cannot be looked at.
_Stamp = tuple[int, int, int] | None


class CurrentContext:
    """Gives the TLS context of a folder's certificate, as it is now.

    What cannot be used (a file that is half written, a key that is not the certificate's, another one's certificate)
    is warned of once and changes nothing: the files before it count on. May be called from one thread at a time.

    :param credentials: as they were read at the start.
    :param make: makes the context of credentials; may raise ProgramError.
    :raises CertificateError: the files have become unusable since they were loaded.
    """

    def __init__(self, credentials: Credentials, make: Callable[[Credentials], ssl.SSLContext]) -> None:
        self._credentials = credentials
        self._make = make
        # First, so that what is written meanwhile is read the next time.
        self._stamps = self._look()
        self._context = make(credentials)
        self._warned_at = datetime.now(UTC)

    def __call__(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            self._read()
        return self._context

    def warn_of_expiry(self, now: datetime | None = None) -> None:
        """Warn of a certificate that expires soon, or has; once a day, from a day after the start on.

        :param now: None: the clock's.
        """
        now = datetime.now(UTC) if now is None else now
        if now - self._warned_at < WARN_EVERY:
            return
        self._warned_at = now
        self()
        warning = expiry_warning(self._credentials, now)
        if warning is not None:
            log.warning("%s", warning, extra={"action": "certificate_expires"})

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(self._stamp(name) for name in (TRUST_FILE, CERTIFICATE_FILE, KEY_FILE))

    def _stamp(self, name: str) -> _Stamp:
        try:
            status = (self._credentials.directory / name).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> None:
        # The library that reads certificates is large, and few programs see theirs renewed.
        from edge_mqtt.certs.loading import load_credentials

        before = self._credentials
        try:
            credentials = load_credentials(before.directory)
            _check_identity(credentials, before)
            self._context = self._make(credentials)
        except ProgramError as error:
            log.warning(
                "the certificate before is used on, as the new one cannot be: %s",
                error,
                extra={"action": "certificate_unusable"},
            )
            return
        self._credentials = credentials
        if credentials.fingerprint != before.fingerprint:
            log.info(
                "new certificate of %s, valid until %s, used for new connections",
                credentials.identity,
                f"{credentials.not_after:%Y-%m-%d}",
                extra={"action": "certificate_renewed"},
            )


def _check_identity(credentials: Credentials, before: Credentials) -> None:
    if credentials.identity != before.identity:
        raise CredentialsUnusable(
            f"{before.directory} holds the certificate of {credentials.identity} now, not of {before.identity}: "
            "restart the program to use it"
        )
