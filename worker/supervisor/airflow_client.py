"""Airflow's own client of the Execution API, for supervisors: no certificate authorities for a unix socket."""

from __future__ import annotations

import ssl
from typing import Final

import httpx
from airflow.sdk.api.client import Client

from edge_mqtt.worker.ipc.api_contract import BASE_URL

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class WorkerClient(Client):
    """Calls the Execution API by way of the worker.

    :param transport: what the calls go by.
    :param secret: opens the worker's socket for this job.
    """

    def __init__(self, transport: httpx.BaseTransport, secret: str) -> None:
        # trust_env: a proxy variable must not send these calls anywhere but to the socket.
        super().__init__(base_url=BASE_URL, token=secret, transport=transport, timeout=None, trust_env=False)

    @staticmethod
    def _get_ssl_context_cached(*_: str | None) -> ssl.SSLContext:
        """Return what nobody uses: with the machine's authorities it takes 3 MB in every process."""
        return _NO_TLS
