"""``edge-logs``: the logs of tasks on edge workers, read and followed live."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from edge_mqtt.broker_bridge.edge_logs.options import BridgeAccess, UsageError, find_bridge
from edge_mqtt.broker_bridge.edge_logs.options import select as select_logs
from edge_mqtt.broker_bridge.edge_logs.renderers import OutputFormat
from edge_mqtt.broker_bridge.program import interrupt
from edge_mqtt.broker_bridge.program.command import new_app, run_command, say
from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.program.settings.options import Given, with_settings
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import CommandLine
from edge_mqtt.broker_bridge.program.version import VersionOption

if TYPE_CHECKING:
    from edge_mqtt.broker_bridge.edge_logs.line_assembler import LogLine
    from edge_mqtt.broker_bridge.edge_logs.renderers import Renderer
    from edge_mqtt.broker_bridge.edge_logs.tail_client import Ending, TailClient
    from edge_mqtt.broker_bridge.protocol.messages import LogSelector
    from edge_mqtt.broker_bridge.protocol.topics import Topics
    from edge_mqtt.broker_bridge.transport.channel import MessageChannel
    from edge_mqtt.certs.credentials import Credentials

PROGRAM: Final = "edge-logs"
#: Seconds between keep alive pings. Shorter than a worker's: a person is waiting for the next line, and a second
#: program with the same certificate is told of it after twice this time.
KEEP_ALIVE_S: Final = 15

app = new_app(PROGRAM)


@app.command()
@with_settings(Reader.OPERATOR)
def read(
    dag_id: Annotated[str | None, typer.Argument(metavar="DAG_ID", help="The Dag; its newest run.")] = None,
    task_id: Annotated[str | None, typer.Argument(metavar="TASK_ID", help="One task of it.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every Dag: what runs now and from now on.")] = False,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="RUN_ID", help="A run other than the newest.")
    ] = None,
    map_index: Annotated[
        int | None, typer.Option("--map-index", min=-1, metavar="N", help="One of the mapped tasks.")
    ] = None,
    try_number: Annotated[int | None, typer.Option("--try", min=1, metavar="N", help="One of the tries.")] = None,
    worker: Annotated[str | None, typer.Option("--worker", metavar="NAME", help="What this worker ran.")] = None,
    queue: Annotated[
        str | None, typer.Option("--queue", metavar="NAME", help="What went through this queue.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", min=0, help="Begin with the last LINES of each log.", metavar="LINES"),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="For people, one JSON object a line, or bytes as they are.")
    ] = OutputFormat.PRETTY,
    given: Given,
    version: VersionOption = False,  # noqa: ARG001 -- has done its work by now
) -> int:
    """Show the logs of tasks on edge workers; with -f, live until the run ends.

    Exit codes: 0 all is shown (and the followed run succeeded), 1 the followed run failed, 2 there is no such Dag,
    run or task, or an option is wrong, 3 the bridge refuses the certificate, 4 another edge-logs uses
    it, 5 the bridge is of another version, 6 the bridge does not answer.
    """
    selector = select_logs(
        dag_id=dag_id,
        task_id=task_id,
        every=every,
        run_id=run_id,
        map_index=map_index,
        try_number=try_number,
        worker=worker,
        queue=queue,
    )
    access = find_bridge(CommandLine(Reader.OPERATOR, given), environ=os.environ)
    screen = Screen(_renderer(output, selector), sys.stdout.buffer)
    reader = _reader(access, selector, screen, follow=follow, last_lines=lines)
    # What is being printed is printed to its end: half a line could leave the terminal in colour.
    interrupt.call_once(reader.interrupt)
    return _report(reader.run(), quiet=output is not OutputFormat.PRETTY)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``edge-logs`` and return its exit code.

    :param arguments: the command line without the program's name; None: the process's own.
    """
    return run_command(app, PROGRAM, arguments)


class Screen:
    """Prints lines on stdout at once, and messages about the connection on stderr."""

    def __init__(self, renderer: Renderer, stdout: BinaryIO) -> None:
        self._renderer = renderer
        self._stdout = stdout

    def lines(self, lines: Sequence[LogLine]) -> None:
        """Print lines, now.

        :raises BrokenPipeError: the reader of the output is gone.
        """
        try:
            for line in lines:
                self._stdout.write(self._renderer.render(line))
            self._stdout.flush()
        except BrokenPipeError:
            # A new one, without an errno: typer takes one that has it for its own and ends with exit code 1.
            raise BrokenPipeError from None

    def news(self, text: str) -> None:
        """Tell something about the connection."""
        say(PROGRAM, text)

    def watch(self, unread: Callable[[], None]) -> None:
        """Call ``unread`` when the reader of stdout is gone: ``edge-logs -f | head`` ends with head."""
        poll = select.poll()
        # Asking for nothing: errors, such as a pipe without a reader, are told in any case.
        poll.register(self._stdout.fileno(), 0)

        def wait() -> None:
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll()):
                unread()

        threading.Thread(target=wait, name=f"{PROGRAM}.stdout", daemon=True).start()


class _Warnings(logging.Handler):
    """Hands the transport's warnings to the reader, which knows how often they bear repeating."""

    def __init__(self, trouble: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._trouble = trouble

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on what the transport could not do."""
        action = getattr(record, "action", "")
        if action in ("connect_retry", "name_in_use"):
            reason = getattr(record, "reason", None) or record.getMessage()
            self._trouble(str(reason), name_in_use=action == "name_in_use")
        else:
            say(PROGRAM, record.getMessage())


def _renderer(output: OutputFormat, selector: LogSelector) -> Renderer:
    from edge_mqtt.broker_bridge.edge_logs.renderers import JsonRenderer, PrettyRenderer, RawRenderer

    if output is OutputFormat.JSON:
        return JsonRenderer()
    if output is OutputFormat.RAW:
        return RawRenderer()
    from rich.console import Console

    # rich knows NO_COLOR, FORCE_COLOR, TERM=dumb and what is a terminal.
    console = Console(file=sys.stdout)
    colour = console.color_system is not None and not console.no_color
    return PrettyRenderer(selector, colour=colour, encoding=sys.stdout.encoding or "utf-8")


def _reader(
    access: BridgeAccess, selector: LogSelector, screen: Screen, *, follow: bool, last_lines: int | None
) -> TailClient:
    from edge_mqtt.broker_bridge.edge_logs.line_assembler import LineAssembler
    from edge_mqtt.broker_bridge.edge_logs.tail_client import WAIT_S, TailClient
    from edge_mqtt.broker_bridge.protocol.topics import Topics
    from edge_mqtt.certs.loading import load_credentials

    party = load_credentials(access.certs)
    topics = Topics(access.topic_prefix)
    reader = TailClient(
        _channel(access, party, topics),
        url=access.url,
        request_topic=topics.admin_request(party.identity),
        tail=LineAssembler(selector, last_lines=last_lines, wait_s=WAIT_S if follow else 0.0),
        output=screen,
        follow=follow,
    )
    screen.watch(reader.unread)
    ours = logging.getLogger("edge_mqtt")
    ours.propagate = False
    ours.addHandler(_Warnings(reader.trouble))
    return reader


def _channel(access: BridgeAccess, party: Credentials, topics: Topics) -> MessageChannel:
    from edge_mqtt.broker_bridge.transport.channel import MessageChannel
    from edge_mqtt.broker_bridge.transport.endpoint import InvalidUrl
    from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
    from edge_mqtt.certs.credentials import expiry_warning
    from edge_mqtt.certs.identity import Role
    from edge_mqtt.certs.renewal import CurrentContext
    from edge_mqtt.certs.tls import client_context

    if party.identity.role is not Role.OPERATOR:
        raise UsageError(
            f"{access.certs} holds the certificate of {party.identity}, but edge-logs needs an operator's: "
            "make one with 'edge-certs issue operator NAME'"
        )
    warning = expiry_warning(party, datetime.now(UTC))
    if warning is not None:
        say(PROGRAM, warning)
    options = ConnectOptions(
        identity=party.identity,
        incarnation=uuid.uuid4().hex,
        keep_alive_s=KEEP_ALIVE_S,
        subscriptions=(topics.admin_response(party.identity),),
    )
    try:
        return MessageChannel(PahoTransport(access.url, CurrentContext(party, client_context), options))
    except InvalidUrl as error:
        raise UsageError(f"--bridge: {error}") from error


def _report(ending: Ending, *, quiet: bool) -> int:
    from edge_mqtt.broker_bridge.edge_logs.tail_client import End

    if ending.message:
        say(PROGRAM, ending.message)
    elif ending.run_state and not quiet:
        say(PROGRAM, f"the run has ended: {ending.run_state}")
    return {
        End.DONE: ExitCode.DONE,
        End.RUN_FAILED: ExitCode.FAILED,
        End.NOT_FOUND: ExitCode.USAGE,
        End.REFUSED: ExitCode.REFUSED,
        End.NAME_IN_USE: ExitCode.NAME_IN_USE,
        End.AWAY: ExitCode.UNREACHABLE,
        End.VERSION: ExitCode.PROTOCOL_VERSION,
        End.INTERRUPTED: ExitCode.INTERRUPTED,
    }[ending.end]


if __name__ == "__main__":
    sys.exit(main())
