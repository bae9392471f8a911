"""Which executors of this scheduler are which name at which bridge: a bridge takes two with one name for one.

A scheduler has an executor for each team, and each reads its own settings. With one certificate for two of them the
second would be refused for ever, or the first be thrown out by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.settings import schema
from edge_mqtt.broker_bridge.transport.endpoint import Endpoint, InvalidUrl, parse_url
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.executor.errors import SharedCertificate
from edge_mqtt.executor.settings import ExecutorSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateClaim:
    """One executor's name at one bridge."""

    endpoint: Endpoint
    client_id: str

    def release(self) -> None:
        """Let the next one have it; safe to repeat."""
        _claims.pop(self, None)


#: Whose each claim is: a team's, or of all that have none.
_claims: dict[CertificateClaim, str] = {}


def claim_certificate(settings: ExecutorSettings, *, team: str | None) -> CertificateClaim | None:
    """Note that an executor of this process uses a certificate.

    None when it cannot be used yet: the connection says why, again and again.

    :param team: whose executor it is.
    :raises SharedCertificate: another executor of this process uses it.
    """
    try:
        identity = load_credentials(settings.certs).identity
        claim = CertificateClaim(endpoint=parse_url(settings.bridge_url), client_id=identity.client_id)
    except (ProgramError, InvalidUrl):
        return None
    owner = _claims.get(claim)
    if owner is not None:
        certs = schema.EXECUTOR_CERTS
        raise SharedCertificate(
            f"{certs.described(team)} is {settings.certs}, the certificate of {identity}, which {owner} uses, too: "
            f"make another with `edge-certs issue executor NAME` and set {certs.variable_of(team)} to its folder"
        )
    _claims[claim] = "the executor without a team" if team is None else f"the executor of team {team!r}"
    return claim
