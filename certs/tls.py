"""TLS with our credentials: contexts for both ends, the peer's identity, and errors put into words."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime

from edge_mqtt.broker_bridge.program.private_files import FileUnusable
from edge_mqtt.certs.credentials import CERTIFICATE_FILE, KEY_FILE, TRUST_FILE, Credentials, identity_from_names
from edge_mqtt.certs.identity import Identity

_GET_A_NEW_ONE = "issue it again with edge-certs --force and copy the folder here"


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """Return the context with which a client connects to the bridge.

    :raises CertificateError: the files have become unusable since they were loaded.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, credentials)


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """Return the context with which a bridge serves: a client without a certificate cannot connect.

    :raises CertificateError: the files have become unusable since they were loaded.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would let a certificate in that has expired since the session began.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def peer_identity(peercert: Mapping[str, object]) -> Identity:
    """Return whose certificate the other side of a connection has shown.

    :param peercert: what ``SSLObject.getpeercert()`` returned.
    :raises CredentialsUnusable: the certificate is not one of ours.
    """
    uris = [value for kind, value in _pairs(peercert.get("subjectAltName", ())) if kind == "URI"]
    subject = peercert.get("subject", ())
    parts = subject if isinstance(subject, tuple) else ()
    common = [value for part in parts for kind, value in _pairs(part) if kind == "commonName"]
    return identity_from_names(uris, common)


#: What OpenSSL's X509_V_ERR codes mean to the user when we refuse the other side (openssl/x509_vfy.h).
_VERIFY_ERRORS: Mapping[int, str] = {
    7: "its signature is wrong: copy ca.crt and the other side's folder from the same edge-certs folder",
    9: "it is not valid yet: set the clocks of both machines",
    10: f"it has expired: unless a clock is wrong, on the other side {_GET_A_NEW_ONE.replace(' here', '')}",
    18: "it is self-signed and not of our authority: is this the right host, and nothing in between?",
    19: "it is of an authority that is not in our ca.crt: use folders made by the same edge-certs folder",
    20: "it is of an authority that is not in our ca.crt: use folders made by the same edge-certs folder",
    21: "it is of an authority that is not in our ca.crt: use folders made by the same edge-certs folder",
    26: "it was not made for this end of a connection: the bridge needs a bridge's, a client one of its own role",
}
#: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_TIME_ERRORS = frozenset({9, 10})
#: The alerts with which the other side says the same of ours (OpenSSL's ssl_x509err2alert).
_TIME_ALERTS = ("ALERT_CERTIFICATE_EXPIRED", "ALERT_BAD_CERTIFICATE")
#: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH: OpenSSL's text names the host.
_HOST_MISMATCH = frozenset({62, 64})

#: Parts of OpenSSL's reasons for everything else, in the order in which they are looked for.
_REASONS: tuple[tuple[str, str], ...] = (
    ("CERTIFICATE_REQUIRED", "the bridge wants a client certificate and got none: name its folder with --certs"),
    ("PEER_DID_NOT_RETURN", "the client sent no certificate: name its folder with --certs on its side"),
    (
        "ALERT_UNKNOWN_CA",
        "the other side does not know our certificate's authority: use folders made by the same edge-certs folder",
    ),
    (
        "ALERT_CERTIFICATE_EXPIRED",
        f"the other side says that our certificate has expired: {_GET_A_NEW_ONE}, or set the clock that is wrong",
    ),
    (
        "ALERT_CERTIFICATE_REVOKED",
        "our certificate has been revoked: ask who runs the bridge for a new one",
    ),
    ("ALERT_UNSUPPORTED_CERTIFICATE", "our certificate is not for this end of a connection: use a client's folder"),
    (
        "ALERT_BAD_CERTIFICATE",
        f"the other side does not accept our certificate: set the clock that is wrong, or {_GET_A_NEW_ONE}",
    ),
    ("ALERT_CERTIFICATE_UNKNOWN", f"the other side does not accept our certificate: {_GET_A_NEW_ONE}"),
    ("ALERT_ACCESS_DENIED", "the other side does not let this certificate in: ask who runs the bridge"),
    ("ALERT_DECRYPT_ERROR", f"our certificate and key do not convince the other side: {_GET_A_NEW_ONE}"),
    ("HANDSHAKE_FAILURE", "the other side refused the handshake: is a client certificate set, and is it a bridge?"),
    ("PROTOCOL_VERSION", "the two sides share no TLS version: 1.2 or newer is needed, also by a proxy in between"),
    (
        "UNSUPPORTED_PROTOCOL",
        "the two sides share no TLS version: 1.2 or newer is needed, also by a proxy in between",
    ),
    ("WRONG_VERSION_NUMBER", "the other side does not speak TLS: check host and port, and a proxy in between"),
    ("HTTP_REQUEST", "a client spoke plain HTTP where TLS is needed: use wss://"),
    ("EOF", "the other side hung up during the handshake: is it a bridge, and does a firewall cut in?"),
)


def depends_on_the_time(error: BaseException) -> bool:
    """Tell whether a connection failed because a certificate is not valid now, on either side.

    That passes: a clock is set soon after a machine has started, and a bridge is given a new certificate.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_code in _TIME_ERRORS
    return isinstance(error, ssl.SSLError) and any(alert in _reason(error) for alert in _TIME_ALERTS)


def clock_note(error: BaseException) -> str:
    """Return what to add to a line about ``error``: this machine's time when that may be the reason, else nothing."""
    if not depends_on_the_time(error):
        return ""
    return f" (this machine's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"


def explain_tls_error(error: ssl.SSLError | OSError) -> str:
    """Return one line that says why a connection failed and what to do."""
    return _explain(error) + clock_note(error)


def _reason(error: ssl.SSLError) -> str:
    # The text has OpenSSL's reason in it; the attribute is missing on errors that Python code has made.
    return str(error).upper().replace(" ", "_")


def _explain(error: ssl.SSLError | OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the other side's certificate is refused, {_explain_verification(error)}"
    if isinstance(error, ssl.SSLError):
        reason = _reason(error)
        for part, explanation in _REASONS:
            if part in reason:
                return explanation
        return f"TLS failed ({_first_line(error)}): check that the address is the bridge's"
    return _explain_os_error(error)


def _explain_verification(error: ssl.SSLCertVerificationError) -> str:
    text = error.verify_message.rstrip(".")
    if error.verify_code in _HOST_MISMATCH:
        return (
            f"{text}: use a name that the bridge's certificate has, or add one with "
            "'edge-certs issue bridge bridge --force' and one --bridge-host for each name"
        )
    return _VERIFY_ERRORS.get(error.verify_code, f"{text}: use certificates made by edge-certs")


def _explain_os_error(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return (
            f"the host's name cannot be resolved ({error.strerror}): check its spelling and the DNS of this machine"
        )
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: check host and port, and that the bridge runs"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "the connection was cut: the bridge stopped or refused us, or a firewall cuts in; its log knows more"
    if isinstance(error, TimeoutError):
        return "no answer in time: check host and port, and that a firewall lets outbound connections to it pass"
    return f"the connection failed: {error.strerror or _first_line(error)}"


def _first_line(error: OSError) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The default from Python 3.13 on; ours pass, and what does not is not ours.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(credentials.directory / TRUST_FILE)
        context.load_cert_chain(credentials.directory / CERTIFICATE_FILE, credentials.directory / KEY_FILE)
    except OSError as error:  # ssl.SSLError is one
        raise FileUnusable(
            f"{credentials.directory} cannot be used ({_first_line(error)}): copy the whole folder again"
        ) from error
    return context


def _pairs(names: object) -> list[tuple[str, str]]:
    if not isinstance(names, tuple):
        return []
    return [(name[0], name[1]) for name in names if isinstance(name, tuple) and len(name) == 2]
