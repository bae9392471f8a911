"""The ``edge-worker`` command."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_mqtt.broker_bridge.program import interrupt
from edge_mqtt.broker_bridge.program.command import new_app, run_command
from edge_mqtt.broker_bridge.program.console import log_to_stderr
from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.program.settings import schema
from edge_mqtt.broker_bridge.program.settings.options import Given, with_settings
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import CommandLine, Environment, Values
from edge_mqtt.broker_bridge.program.settings.unknown import warn_of_unknown_settings
from edge_mqtt.broker_bridge.program.version import VersionOption, own_version
from edge_mqtt.certs.credentials import expiry_warning
from edge_mqtt.certs.errors import NotYetValid
from edge_mqtt.certs.identity import Role
from edge_mqtt.worker.config import WorkerSettings, load_settings
from edge_mqtt.worker.core.drain import StopSignal
from edge_mqtt.worker.errors import ConfigurationError, LauncherError
from edge_mqtt.worker.launcher.forked import ForkedLauncher, loaded_airflow
from edge_mqtt.worker.launcher.started import StartedLauncher
from edge_mqtt.worker.runs.adopted_children import bury_adopted_children
from edge_mqtt.worker.runs.launcher_client import LauncherClient

if TYPE_CHECKING:
    from edge_mqtt.certs.credentials import Credentials

PROGRAM = "edge-worker"

log = logging.getLogger(__name__)

cli = new_app(PROGRAM)


@cli.command()
@with_settings(Reader.WORKER)
def start(
    *,
    given: Given,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: VersionOption = False,  # noqa: ARG001 -- has done its work by now
) -> int:
    """Run Airflow's tasks on this machine, over one outbound connection to the bridge.

    What is not given here is read from the section [edge_mqtt] of this machine's Airflow configuration.
    Ctrl-C finishes the running tasks and ends; a second one stops them.
    """
    return run(CommandLine(Reader.WORKER, given), level=logging.DEBUG if verbose else logging.INFO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the program's exit code.

    :param arguments: the command line without the program's name; None: the process's own.
    """
    return run_command(cli, PROGRAM, arguments, code_of=_code_of)


def run(command_line: CommandLine, *, level: int) -> int:
    """Run a worker; return the program's exit code.

    :param level: of the log lines that are written.
    :raises ProgramError: it cannot start.
    """
    early = Values(Reader.WORKER, command_line, Environment(os.environ))
    log_to_stderr(level, early[schema.LOG_FORMAT])
    # What is there before the fork is shared with the launcher; there must be no thread or loop yet.
    from edge_mqtt.worker import bootstrap

    bootstrap.prepare_parts()
    own_version()
    with loaded_airflow() as airflow:
        settings = load_settings(Values(Reader.WORKER, command_line, airflow.settings))
        lock = settings.state.prepare()
        process = ForkedLauncher(airflow)
    log_to_stderr(level, settings.log_format)
    warn_of_unknown_settings(log, os.environ)
    return asyncio.run(_run(settings, lock, process))


def _code_of(error: ProgramError) -> ExitCode:
    # A clock that is behind after a power cut is set some time: the service manager shall start the worker again.
    return ExitCode.FAILED if isinstance(error, (LauncherError, NotYetValid)) else ExitCode.USAGE


async def _run(settings: WorkerSettings, lock: int, process: StartedLauncher) -> int:
    from edge_mqtt.worker.bootstrap import assemble_worker

    launcher = LauncherClient(process)
    try:
        # Behind the fork: the key has no business in the memory of the launcher and its tasks.
        credentials = _load_credentials(settings.certs)
        await launcher.wait_ready()
        _set_title(credentials.identity.name)
        _banner(settings, credentials)
        worker = assemble_worker(settings, credentials, launcher, version=own_version())
    except BaseException:
        process.kill()
        await launcher.stop()
        raise
    # The lock is the kernel's to release: it must outlive everything here, whatever happens.
    assert lock >= 0  # noqa: S101 -- names the descriptor that is kept open on purpose
    interrupt.call_in_loop(
        asyncio.get_running_loop(),
        {
            signal.SIGINT: partial(worker.request_stop, StopSignal.INTERRUPT),
            signal.SIGTERM: partial(worker.request_stop, StopSignal.TERMINATE),
        },
    )
    burying = asyncio.create_task(bury_adopted_children(), name="worker.children")
    code = await worker.run()
    burying.cancel()
    for number in (signal.SIGINT, signal.SIGTERM):
        # All is done: one more could only spoil the exit code.
        signal.signal(number, signal.SIG_IGN)
    return code


def _load_credentials(folder: Path) -> Credentials:
    from edge_mqtt.certs.loading import load_credentials

    credentials = load_credentials(folder)
    if credentials.identity.role is not Role.WORKER:
        raise ConfigurationError(
            f"the certificate in {folder} is that of {credentials.identity}, not of a worker: "
            f"make one with 'edge-certs issue worker NAME'"
        )
    return credentials


def _banner(settings: WorkerSettings, credentials: Credentials) -> None:
    log.info(
        "edge-worker %s: worker %s, queues %s, concurrency %d, bridge %s, state in %s",
        own_version(),
        credentials.identity.name,
        ", ".join(settings.queues),
        settings.concurrency,
        settings.bridge_url,
        settings.state.path,
        extra={"action": "starting", "worker": credentials.identity.name},
    )
    warning = expiry_warning(credentials, datetime.now(UTC))
    if warning is not None:
        log.warning("%s", warning, extra={"action": "certificate_expires"})
    for folder in settings.dag_folders:
        # Not by Path.is_dir, which up to Python 3.13 raises for what we may not look at.
        if not os.path.isdir(folder):  # noqa: PTH112
            log.warning(
                "there is no folder %s, where this machine's airflow.cfg says that its Dags are: tasks fail until "
                "they are there",
                folder,
                extra={"action": "dags_missing"},
            )


def _set_title(name: str) -> None:
    from setproctitle import setproctitle

    setproctitle(f"{PROGRAM}[{name}]")
