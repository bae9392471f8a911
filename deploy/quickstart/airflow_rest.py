"""Airflow's public REST API, as far as the stack uses it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx

from deploy.quickstart.errors import RestFailed

#: Seconds for one answer; a busy two-core machine takes a few.
REQUEST_TIMEOUT_S = 30.0
#: Airflow's own limit of one page.
PAGE_SIZE = 100


class AirflowRest:
    """Speaks to one api-server as one user."""

    def __init__(self, base_url: str, *, username: str, password: str) -> None:
        self._credentials = {"username": username, "password": password}
        # trust_env: a proxy for the outside world has no business between us and loopback.
        self._http = httpx.Client(base_url=base_url, timeout=REQUEST_TIMEOUT_S, trust_env=False)
        self._token: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> dict[str, Any]:
        """Return what the api-server says of the services; empty while it cannot be reached."""
        try:
            response = self._http.get("/api/v2/monitor/health", timeout=2.0)
        except httpx.HTTPError:
            return {}
        return dict(response.json()) if response.is_success else {}

    def serves_tasks(self) -> bool:
        """Tell whether the Execution API answers.

        Its first answer takes seconds (Airflow 3.3 builds all its versions then): better now than for the first task.
        """
        try:
            return self._http.get("/execution/health").is_success
        except httpx.HTTPError:
            return False

    def request(
        self, method: str, path: str, json: object = None, *, params: dict[str, Any] | None = None
    ) -> httpx.Response:
        """Return the answer to one call.

        :param path: below ``/api/v2``.
        :raises RestFailed: there is none, or it is an error.
        """
        try:
            response = self._send(method, path, json, params)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._token = None
                response = self._send(method, path, json, params)
        except httpx.HTTPError as error:
            raise RestFailed(f"{method} {path}: no answer from Airflow ({error})", 0) from error
        if response.is_error:
            raise RestFailed(f"{method} {path}: {response.status_code} {response.text[:500]}", response.status_code)
        return response

    def call(self, method: str, path: str, json: object = None, *, params: dict[str, Any] | None = None) -> Any:
        """Return the decoded answer to one call; None when it has no body.

        :raises RestFailed: there is no answer, or it is an error.
        """
        response = self.request(method, path, json, params=params)
        return response.json() if response.content else None

    def pages(self, path: str, key: str) -> list[dict[str, Any]]:
        """Return all entries of a collection that comes in pages."""
        entries: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", path, params={"limit": PAGE_SIZE, "offset": len(entries)})
            entries += page[key]
            if not page[key] or len(entries) >= page["total_entries"]:
                return entries

    def _send(self, method: str, path: str, json: object, params: dict[str, Any] | None) -> httpx.Response:
        if self._token is None:
            answer = self._http.post("/auth/token", json=self._credentials).raise_for_status()
            self._token = answer.json()["access_token"]
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._http.request(method, f"/api/v2{path}", json=json, params=params, headers=headers)


def run_path(dag_id: str, run_id: str) -> str:
    """Return the path of a Dag run below ``/api/v2``."""
    return f"/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
