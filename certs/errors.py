"""Everything that can be wrong with keys and certificates. Each message is one line that says what to do.

CertificateError
├── InvalidRequest        what was asked for cannot be done: a host, a number of days
│   ├── AlreadyExists     a key or an authority would be replaced
│   └── AuthorityMissing  the folder has no authority
├── CredentialsUnusable   certificate, key and authority do not belong together, or are not of this project
├── NotYetValid           the certificate's time has not come, or the clock is behind
└── Expired               the certificate's time is over

What cannot be read or written is FileUnusable, see ``edge_mqtt.broker_bridge.program.private_files``.
"""

from __future__ import annotations

from edge_mqtt.broker_bridge.program.errors import ProgramError


class CertificateError(ProgramError):
    """Root of everything that can be wrong with keys and certificates."""


class InvalidRequest(CertificateError):
    """What was asked for cannot be done as asked."""


class AlreadyExists(InvalidRequest):
    """A key or an authority is there already and would be replaced."""


class AuthorityMissing(InvalidRequest):
    """The folder has no authority to issue with."""


class CredentialsUnusable(CertificateError):
    """Certificate, key and authority do not belong together, or the certificate is not one of ours."""


class NotYetValid(CertificateError):
    """The certificate's time has not come, or this machine's clock is behind."""


class Expired(CertificateError):
    """The certificate's time is over."""
