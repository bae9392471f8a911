"""The ``edge-certs`` command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from edge_mqtt.broker_bridge.program.command import new_app, run_command, say
from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.program.private_files import is_folder, is_there, reading
from edge_mqtt.broker_bridge.program.version import VersionOption
from edge_mqtt.certs.authority import CERTIFICATE_DAYS
from edge_mqtt.certs.errors import InvalidRequest
from edge_mqtt.certs.identity import Identity, InvalidName, Role, check_name
from edge_mqtt.certs.store import Issued, Store

PROGRAM = "edge-certs"

app = new_app(PROGRAM)

DirOption = Annotated[
    Path, typer.Option("--dir", envvar="EDGE_CERTS_DIR", help="Folder of the authority and of all it has issued.")
]
DaysOption = Annotated[int, typer.Option("--days", help="Days that the certificate is valid.")]
HostsOption = Annotated[
    list[str] | None,
    typer.Option("--bridge-host", help="DNS name or IP address that workers connect to; repeatable.", metavar="HOST"),
]
DEFAULT_DIR = Path("edge-certs")


@app.callback()
def begin(*, version: VersionOption = False) -> None:
    """Make the keys and certificates by which bridge, executors, workers and operators know each other."""


@app.command()
def init(
    *,
    bridge_host: HostsOption = None,
    directory: DirOption = DEFAULT_DIR,
    days: DaysOption = CERTIFICATE_DAYS,
    force: Annotated[
        bool, typer.Option("--force", help="Put the authority that is there aside and make a new one.")
    ] = False,
) -> None:
    """Make an authority and the bridge's certificate."""
    store = Store(directory)
    created = store.create(hosts=bridge_host or (), days=days, force=force, now=_now())
    record, folder = created.bridge.record, created.bridge.folder
    if created.put_aside is not None:
        say(
            PROGRAM,
            f"the old authority is now {created.put_aside}: every certificate that it issued has stopped working, "
            "issue them again with --force",
        )
    typer.echo(
        f"Made in {directory}:\n"
        "  ca/      the authority: whoever has ca/ca.key can make workers, so keep it here and back it up\n"
        f"  bridge/  for the bridge at {', '.join(record.hosts)}, valid until {record.not_after:%Y-%m-%d}\n"
        "\n"
        "Next:\n"
        f"  1. copy {folder} to the bridge's machine and name it there as [edge_mqtt] bridge_certs\n"
        f"  2. {_issue_line('executor', directory)}\n"
        f"  3. {_issue_line('worker', directory)}\n"
        f"  4. {_issue_line('operator', directory)}"
    )


@app.command()
def issue(
    role: Annotated[Role, typer.Argument(help="What its holder may do.")],
    name: Annotated[str, typer.Argument(help="Its name: letters, digits, '_', '.', '-'; unique in its role.")],
    *,
    directory: DirOption = DEFAULT_DIR,
    days: DaysOption = CERTIFICATE_DAYS,
    bridge_host: HostsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the key and certificate that are there.")] = False,
) -> None:
    """Make a key and a certificate."""
    try:
        identity = Identity(role, check_name(name))
    except InvalidName as error:
        raise InvalidRequest(str(error)) from None
    issued = Store(directory).issue(identity, hosts=bridge_host or (), days=days, force=force, now=_now())
    for earlier in issued.still_valid:
        say(
            PROGRAM,
            f"the certificate of {identity} from {earlier.issued_at:%Y-%m-%d} stays valid until "
            f"{earlier.not_after:%Y-%m-%d}: delete its key wherever it was copied",
        )
    _tell_issued(issued)


@app.command("list")
def list_issued(directory: DirOption = DEFAULT_DIR) -> None:
    """List the newest certificate of every holder."""
    from edge_mqtt.certs.report import issued_table, show_on

    store = Store(directory)
    now = _now()
    show_on(sys.stdout, issued_table(store.certificate(), store.issued_certificates(), now=now))


@app.command()
def show(
    wanted: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="A name (lab-3, worker:lab-3), a folder or a .crt file.")
    ],
    directory: DirOption = DEFAULT_DIR,
) -> None:
    """Show what certificates say; exit with 1 when one cannot be used."""
    from edge_mqtt.certs.report import certificate_table, check, show_on

    now = _now()
    usable = True
    for path in _paths(wanted, Store(directory)):
        show_on(sys.stdout, certificate_table(path, now=now))
        try:
            warning = check(path, now=now)
        except ProgramError as error:
            usable = False
            warning = str(error)
        if warning is not None:
            say(PROGRAM, warning)
    if not usable:
        raise typer.Exit(ExitCode.FAILED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``edge-certs`` and return its exit code.

    :param arguments: the command line without the program's name; None: the process's own.
    """
    return run_command(app, PROGRAM, arguments, code_of=_code_of)


def _code_of(error: ProgramError) -> ExitCode:
    return ExitCode.USAGE if isinstance(error, InvalidRequest) else ExitCode.FAILED


def _tell_issued(issued: Issued) -> None:
    record, folder = issued.record, issued.folder
    if issued.shortened:
        say(
            PROGRAM,
            f"the certificate ends on {record.not_after:%Y-%m-%d}, before its days are over: its authority ends then",
        )
    where = {
        Role.BRIDGE: "the bridge's machine and name it there as [edge_mqtt] bridge_certs",
        Role.EXECUTOR: "the scheduler's machine and name it there as [edge_mqtt] executor_certs",
        Role.WORKER: "the edge machine and start the worker with --certs",
        Role.OPERATOR: "the operator's machine and name it with --certs",
    }[record.role]
    typer.echo(
        f"Made {folder} for {record.identity}, valid until {record.not_after:%Y-%m-%d}.\n"
        f"Next: copy the whole folder to {where}."
    )


def _paths(wanted: str, store: Store) -> list[Path]:
    """Return the folders or files that ``wanted`` means: a path when it looks like one, else a name."""
    path = Path(wanted)
    if "/" in wanted or wanted in (".", "..") or path.suffix in (".crt", ".pem"):
        return [path]
    with reading(store.directory):
        has_authority = is_folder(store.authority_folder)
    if has_authority:
        folders = [store.folder(record.identity) for record in store.issued_certificates().find(wanted)]
        if folders:
            return folders
    with reading(path):
        if is_there(path):
            return [path]
    raise InvalidRequest(f"no certificate for {wanted!r} in {store.directory}: see '{PROGRAM} list', or name a path")


def _issue_line(role: str, directory: Path) -> str:
    where = "" if directory == DEFAULT_DIR else f" --dir {shlex.quote(str(directory))}"
    return f"{PROGRAM} issue {role} NAME{where}"


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
