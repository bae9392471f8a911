"""Makes Execution API tokens, where the signing key of this Airflow is configured."""

from __future__ import annotations

import logging
from typing import Protocol

log = logging.getLogger(__name__)


class TokenIssuer(Protocol):
    """Makes a token for one task instance."""

    def issue_token(self, task_instance_id: str) -> str | None:
        """Return a token with the scope of a running task; None when this machine cannot sign."""


class AirflowTokenIssuer:
    """Signs with the key that Airflow's api-server verifies with (``[api_auth] jwt_secret`` or its private key).

    Two things need it: asking Airflow for the state of a Dag run that an operator follows, and letting a task go on
    whose token expired while the bridge itself was away.
    """

    def __init__(self) -> None:
        from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
        from airflow.configuration import conf

        self._generator: JWTGenerator | None = None
        try:
            signing = get_signing_args(make_secret_key_if_needed=False)
        except ValueError as error:
            log.warning(
                "no signing key on this machine (%s): edge-logs -f cannot tell when a run ends; set [api_auth] "
                "jwt_secret here to the api-server's",
                error,
                extra={"action": "no_signing_key"},
            )
            return
        self._generator = JWTGenerator(
            valid_for=conf.getint("execution_api", "jwt_expiration_time"),
            audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
            issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
            **signing,
        )

    def issue_token(self, task_instance_id: str) -> str | None:
        """Return a fresh token for ``task_instance_id``; None without a key."""
        if self._generator is None:
            return None
        return self._generator.generate(extras={"sub": task_instance_id, "scope": "execution"})
