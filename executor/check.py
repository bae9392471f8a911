"""``airflow edge-mqtt check``: would the executor get through to the bridge from here, as who it is?

It goes as far as the scheduler does, to its topics. Beside a scheduler that is connected it finds the name in use,
and does not disturb that connection.
"""

from __future__ import annotations

import os
import ssl
import sys
import uuid
from datetime import UTC, datetime
from typing import NoReturn

import httpx
from airflow.configuration import conf

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.program.settings.unknown import unknown_settings
from edge_mqtt.broker_bridge.transport.endpoint import InvalidUrl
from edge_mqtt.broker_bridge.transport.probe import Lost, NameInUse, Refused, probe_connection
from edge_mqtt.certs.credentials import Credentials, expiry_warning
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context, explain_tls_error
from edge_mqtt.executor.connect import check_role, connect_options
from edge_mqtt.executor.settings import ExecutorSettings, load_settings

#: Seconds that the bridge may take to answer.
TIMEOUT_S = 10.0


def check_command(_args: object = None) -> None:
    """Print what was found.

    The exit code is 1 when the bridge is not reached or does not want us, 2 when a setting or file is wrong.
    """
    try:
        settings = load_settings(conf, shared=conf)
        credentials = load_credentials(settings.certs)
        check_role(credentials, settings)
        context = client_context(credentials)
    except ProgramError as error:
        _fail(str(error), ExitCode.USAGE)
    until = f"valid until {credentials.not_after:%Y-%m-%d}"
    _say(f"certificate  {credentials.identity}, {until}, from {credentials.directory}")
    warning = expiry_warning(credentials, datetime.now(UTC))
    for line in (*unknown_settings(os.environ), *([] if warning is None else [warning])):
        _say(f"warning      {line}")
    _reach(settings, context)
    _subscribe(settings, credentials, context)


def _reach(settings: ExecutorSettings, context: ssl.SSLContext) -> None:
    address = settings.bridge_url.replace("wss://", "https://", 1)
    try:
        # Any answer will do: it shows that each side has accepted the other's certificate.
        answer = httpx.get(address, verify=context, timeout=TIMEOUT_S)
    except httpx.TransportError as error:
        _fail(f"{settings.bridge_url} is not reached: {_explain(error)}", ExitCode.FAILED)
    # A WebSocket server asks for an upgrade (RFC 9110, 15.5.22); the bridge serves one path only.
    if answer.status_code != httpx.codes.UPGRADE_REQUIRED:
        line = f"{settings.bridge_url} is no bridge, it answers {answer.status_code}: the path is /mqtt"
        _fail(line, ExitCode.FAILED)


def _subscribe(settings: ExecutorSettings, credentials: Credentials, context: ssl.SSLContext) -> None:
    url, me = settings.bridge_url, credentials.identity
    try:
        probe_connection(url, context, connect_options(me, settings, incarnation=uuid.uuid4().hex))
    except NameInUse:
        _say(f"bridge       {url} answers; {me} is connected already: its topics are the scheduler's to tell of")
    except Refused as error:
        _fail(error.refusal.message, ExitCode.FAILED)
    except (Lost, InvalidUrl, OSError) as error:
        _fail(f"{url} is not reached: {_explain(error)}", ExitCode.FAILED)
    else:
        _say(f"bridge       {url} answers and accepts {me}")


def _explain(error: BaseException) -> str:
    """Return the innermost reason in words; httpx wraps the errors of TLS and of the socket."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, OSError):
            return explain_tls_error(reason)
        reason = reason.__cause__ or reason.__context__
    return str(error) or type(error).__name__


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _fail(line: str, code: ExitCode) -> NoReturn:
    sys.stderr.write(line + "\n")
    raise SystemExit(code)
