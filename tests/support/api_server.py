"""Airflow's own api-server, with nothing but the Execution API, on a database that the test fills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
from airflow.configuration import conf

from deploy.quickstart.ports import HOST, Ports

#: Seconds that it may take to come up on a busy machine.
STARTUP_S = 120.0


class ApiServer:
    """The program, with the database and the keys of this process's environment."""

    def __init__(self, output: Path) -> None:
        """Describe it; entering the context starts it.

        :param output: the file for what it writes.
        """
        self.port = Ports.free().ui
        self.url = f"http://{HOST}:{self.port}/execution/"
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and return when it answers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.kill()

    def start(self) -> None:
        """Start it, and return when it answers."""
        # The tables are made from Airflow's models, without the marks of its migrations.
        settings = {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False"}
        program = Path(sys.executable).with_name("airflow")
        options = ["--apps", "execution", "--workers", "1", "--host", HOST, "--port", str(self.port)]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [str(program), "api-server", *options],
                stdout=output,
                stderr=output,
                env=os.environ | settings,
                start_new_session=True,
            )
        deadline = time.monotonic() + STARTUP_S
        while not self._answers():
            assert self._process.poll() is None, self._output.read_text()
            assert time.monotonic() < deadline, self._output.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it at once, with what it has forked."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        # The first call has the versions of the API built.
        try:
            return httpx.get(self.url + "health", timeout=STARTUP_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False


def task_token(ti_id: uuid.UUID) -> str:
    """Return the token of a task that runs, signed with the key of this process's environment."""
    generator = JWTGenerator(
        valid_for=3600,
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        **get_signing_args(make_secret_key_if_needed=False),
    )
    return generator.generate(extras={"sub": str(ti_id), "scope": "execution"})
