"""Tells a refusal, which no retry will change, from a fault that will pass; and says what to do about it."""

from __future__ import annotations

import ssl
from typing import Final

from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.certs.tls import depends_on_the_time, explain_tls_error

#: OpenSSL's names of the alerts with which a server turns down a client's certificate (RFC 8446, section 6).
#: With TLS 1.3 they arrive after the client's side of the handshake is over, at its first read.
_CERTIFICATE_ALERTS: Final = frozenset(
    {
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)


def from_connect_error(error: BaseException, *, url: str, was_there: bool) -> Refusal | None:
    """Return what ``error`` means when it is certain that a retry would fail the same way; else None.

    :param was_there: the right bridge has been reached before. Then a server with another certificate is in its place
        for a while only: the login page of a ship's or a hotel's network, or a program that took its port.
    """
    if depends_on_the_time(error):
        # Clocks are set, the bridge gets a new certificate, and there may be no one at the site to start us again.
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        if was_there:
            return None
        reason = RefusalReason.SERVER_CERTIFICATE
    elif isinstance(error, ssl.SSLError) and error.reason in _CERTIFICATE_ALERTS:
        reason = RefusalReason.NOT_AUTHORIZED
    else:
        return None
    return Refusal(reason=reason, message=f"{url}: {explain_tls_error(error)}")


def wrong_version(*, url: str) -> Refusal:
    """CONNACK 1 [MQTT-3.2.2-5]."""
    return Refusal(
        reason=RefusalReason.PROTOCOL_VERSION,
        message=f"{url}: the broker does not speak MQTT 3.1.1. Check that the URL is the bridge's",
    )


def name_in_use(client_id: str, *, url: str) -> Refusal:
    """CONNACK 2 for longer than a dead connection can linger."""
    return Refusal(
        reason=RefusalReason.NAME_IN_USE,
        message=(
            f"{url}: another program is connected as {client_id}. "
            "Stop it, or issue this machine a certificate with a name of its own"
        ),
    )


def not_authorized(client_id: str, *, url: str) -> Refusal:
    """CONNACK 4 or 5."""
    return Refusal(
        reason=RefusalReason.NOT_AUTHORIZED,
        message=(
            f"{url}: the bridge does not let {client_id} in. Its log says why; "
            "check that the certificate is a worker's, executor's or operator's and has this name, "
            "and that both sides use the same topic_prefix"
        ),
    )


def subscription_refused(topic_filter: str, client_id: str, *, url: str) -> Refusal:
    """SUBACK 0x80 [MQTT-3.9.3]."""
    return Refusal(
        reason=RefusalReason.NOT_AUTHORIZED,
        message=(
            f"{url}: the broker does not let {client_id} subscribe to {topic_filter}. "
            "Check that the certificate's role is right and that both sides use the same topic_prefix"
        ),
    )
