"""Names of other people's libraries that these may change without notice, and how their use is found in our files.

A library gives no promise for a name with a leading underscore, nor for what its documentation leaves out. Each such
name that we use stands here with the one file that may use it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Our folders, and the packages that they are.
FOLDERS: Final = ("broker_bridge", "certs", "executor", "worker")
#: Libraries whose private names are fenced.
LIBRARIES: Final = ("airflow", "amqtt", "asyncio", "paho", "uvicorn", "websockets")


@dataclass(frozen=True, kw_only=True)
class Borrowed:
    """A name without a promise.

    ``name`` is ``module:name`` or ``module:Class.name``; the attribute of an object is one that its class sets.
    """

    #: Who gives it out, as pip names it; empty for Python itself.
    library: str
    name: str
    #: Ours, the only one that uses it.
    file: str
    #: As a call has them, without annotations and defaults; None for what is not called.
    parameters: str | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def private_parts(self) -> set[str]:
        """The parts of the name that have a leading underscore."""
        return {part for part in self.name.replace(":", ".").split(".") if is_private(part)}

    def complaint(self) -> str | None:
        """Return a sentence that says what has changed, and where to look; None when all is as it was."""
        release = f"{self.library} {importlib.metadata.version(self.library)}" if self.library else _python()
        problem = self._problem()
        return None if problem is None else f"In {release} {self.name} {problem}: look at {self.file}."

    def _problem(self) -> str | None:
        module, _, path = self.name.partition(":")
        *owners, last = path.split(".")
        try:
            found: object = importlib.import_module(module)
            for owner in owners:
                found = getattr(found, owner)
        except (ImportError, AttributeError):
            return "has no more the place that it is in"
        if not hasattr(found, last):
            return None if isinstance(found, type) and last in set_by(found) else "is gone"
        if self.parameters is None:
            return None
        parameters = parameters_of(getattr(found, last))
        return None if parameters == self.parameters else f"takes ({parameters}), no longer ({self.parameters})"


def _python() -> str:
    return "Python " + ".".join(map(str, sys.version_info[:3]))


#: What stands before the name of a parameter that takes all that are left, by its kind.
STARS = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}


def parameters_of(function: object) -> str:
    """Return the names of a call's parameters, but for ``self`` and ``cls``."""
    if not callable(function):
        return "nothing: it cannot be called"
    names = [
        STARS.get(parameter.kind.name, "") + name
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    return ", ".join(name for name in names if name not in ("self", "cls"))


def set_by(owner: type) -> set[str]:
    """Return the names that the methods of a class and of its bases set on ``self``."""
    found: set[str] = set()
    for base in owner.__mro__[:-1]:
        try:
            tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base)))
        except (OSError, TypeError):
            continue
        found |= _set_on_self(tree)
    return found


def _set_on_self(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def is_private(name: str) -> bool:
    """Tell whether a name has a leading underscore and no special meaning to Python."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


# ---------------------------------------------------------------- what our files use


def source_files() -> list[Path]:
    """Return every source file of ours."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def private_names_in(source: str) -> set[str]:
    """Return the private names that a file uses and does not itself define.

    Those are attributes, imports, keywords of calls, and names in ``getattr`` and its like.
    """
    tree = ast.parse(source)
    names = {name for node in ast.walk(tree) for name in _names_of(node) if is_private(name)}
    return names - _defined_in(tree)


def _names_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id="os" | "sys")):
            return  # Documented, for all their underscores.
        case ast.Attribute(attr=name):
            yield name
        case ast.ImportFrom(module=module, names=aliases):
            yield from (module or "").split(".")
            yield from (alias.name for alias in aliases)
        case ast.Import(names=aliases):
            yield from (part for alias in aliases for part in alias.name.split("."))
        case ast.Call(
            func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"),
            args=[_, ast.Constant(value=str(name)), *_],
        ):
            yield name
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="REPLACED"), attr="replace"),
            args=[_, ast.Constant(value=str(name)), *_],
        ):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.Subscript(value=ast.Call(func=ast.Name(id="vars")), slice=ast.Constant(value=str(name))):
            yield name


def _defined_in(tree: ast.AST) -> set[str]:
    found = _set_on_self(tree)
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                found.add(name)
    return found


def overridden_in(path: Path) -> set[str]:
    """Return the private names of a library's classes that the classes in a file define anew."""
    module_name = "edge_mqtt." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = importlib.import_module(module_name.removesuffix(".__init__"))
    found: set[str] = set()
    for kind in vars(module).values():
        if not isinstance(kind, type) or kind.__module__ != module.__name__:
            continue
        ours = {name for name in vars(kind) if is_private(name) and not name.startswith("_abc_")}
        for base in kind.__mro__[1:]:
            if ours and base.__module__.partition(".")[0] in LIBRARIES:
                found |= ours & (set(vars(base)) | set_by(base))
    return found


# ---------------------------------------------------------------- the list


def _all(library: str, file: str, names: dict[str, str | None]) -> tuple[Borrowed, ...]:
    return tuple(
        Borrowed(library=library, name=name, file=file, parameters=parameters) for name, parameters in names.items()
    )


SESSION: Final = "broker_bridge/broker/amqtt_session.py"
INTERNALS: Final = "broker_bridge/broker/asyncio_internals.py"

AMQTT: Final = _all(
    "amqtt",
    SESSION,
    {
        "amqtt.adapters:ReaderAdapter.read": "n",
        "amqtt.adapters:ReaderAdapter.feed_eof": "",
        "amqtt.adapters:WriterAdapter.write": "data",
        "amqtt.adapters:WriterAdapter.drain": "",
        "amqtt.adapters:WriterAdapter.get_peer_info": "",
        "amqtt.adapters:WriterAdapter.get_ssl_info": "",
        "amqtt.adapters:WriterAdapter.close": "",
        "amqtt.broker:Broker.external_connected": "reader, writer, listener_name",
        "amqtt.broker:Broker.retain_message": "source_session, topic_name, data, qos",
        "amqtt.broker:Broker._broadcast_message": "session, topic, data, force_qos",
        "amqtt.broker:Broker._client_message_loop": "client_session, handler",
        "amqtt.broker:Broker._del_all_subscriptions": "session",
        "amqtt.broker:Broker._get_handler": "session",
        "amqtt.broker:Broker._handle_disconnect": "client_session, handler, disconnect_waiter",
        "amqtt.broker:Broker._publish_session_retained_messages": "session",
        "amqtt.broker:Broker._session_monitor": "",
        "amqtt.broker:Broker._sessions": None,
        "amqtt.mqtt.protocol.broker_handler:BrokerProtocolHandler.wait_disconnect": "",
        "amqtt.mqtt.protocol.broker_handler:BrokerProtocolHandler.reader": None,
        "amqtt.mqtt.protocol.broker_handler:BrokerProtocolHandler.writer": None,
        "amqtt.mqtt.protocol.broker_handler:BrokerProtocolHandler._pending_subscriptions": None,
        "amqtt.mqtt.protocol.broker_handler:BrokerProtocolHandler._pending_unsubscriptions": None,
        "amqtt.plugins.base:BaseAuthPlugin.authenticate": "session",
        "amqtt.session:Session.transitions": None,
        "amqtt.session:Session.retained_messages": None,
        "amqtt.session:Session.delivered_message_queue": None,
    },
)

ASYNCIO: Final = _all(
    "",
    INTERNALS,
    {
        "asyncio.sslproto:SSLProtocol.__init__": (
            "loop, app_protocol, sslcontext, waiter, server_side, server_hostname, call_connection_made, "
            "ssl_handshake_timeout, ssl_shutdown_timeout"
        ),
        "asyncio.sslproto:SSLProtocol.max_size": None,
        "asyncio.sslproto:SSLProtocol.connection_made": "transport",
        "asyncio.sslproto:SSLProtocol.get_buffer": "n",
        "asyncio.sslproto:SSLProtocol.buffer_updated": "nbytes",
    },
)

PAHO: Final = _all(
    "paho-mqtt",
    "broker_bridge/transport/paho_connection.py",
    {"paho.mqtt.client:Client._create_socket": ""},
)

UVICORN: Final = _all(
    "uvicorn",
    "worker/api/server.py",
    {
        "uvicorn:Config.http_protocol_class": None,
        "uvicorn.protocols.http.h11_impl:H11Protocol.__init__": "config, server_state, app_state, _loop",
        "uvicorn.protocols.http.h11_impl:H11Protocol.transport": None,
        "uvicorn.server:ServerState.connections": None,
        "uvicorn.server:ServerState.tasks": None,
    },
)

WEBSOCKETS: Final = _all(
    "websockets",
    "broker_bridge/broker/tls_connection.py",
    {
        "websockets.asyncio.server:ServerConnection.__init__": (
            "protocol, server, ping_interval, ping_timeout, close_timeout, max_queue, write_limit"
        ),
        "websockets.asyncio.server:ServerConnection.connection_made": "transport",
        "websockets.asyncio.server:ServerConnection.connection_lost": "exc",
        "websockets.asyncio.server:ServerConnection.connection_lost_waiter": None,
        "websockets.asyncio.server:ServerConnection.paused": None,
        "websockets.asyncio.server:ServerConnection.process_event": "event",
        "websockets.asyncio.server:ServerConnection.resume_writing": "",
        "websockets.asyncio.server:ServerConnection.send_data": "",
    },
)

AIRFLOW: Final = (
    *_all(
        "apache-airflow-core",
        "executor/airflow_hooks.py",
        {
            # Every executor has to have it: Airflow's own hook.
            "airflow.executors.base_executor:BaseExecutor._process_workloads": "workload_items",
            "airflow.executors.base_executor:BaseExecutor._task_event_logs": None,
        },
    ),
    *_all(
        "apache-airflow-core",
        "worker/supervisor/airflow_internals.py",
        {
            "airflow._shared.observability.traces:configure_otel": "conf",
            (
                "airflow.dag_processing.bundles.base:BundleUsageTrackingManager"
                "._remove_stale_bundle_versions_for_bundle"
            ): "bundle_name",
        },
    ),
    *_all(
        "apache-airflow-task-sdk",
        "worker/supervisor/airflow_internals.py",
        {
            "airflow.sdk.api.client:Client._get_ssl_context_cached": "ca_file, ca_path",
            "airflow.sdk.api.datamodels._generated:BundleInfo": None,
            "airflow.sdk.api.datamodels._generated:TaskInstance": None,
            "airflow.sdk.execution_time.comms:CommsDecoder": (
                "log, socket, resp_decoder, id_counter, body_decoder, err_decoder, thread_lock, async_lock"
            ),
            "airflow.sdk.execution_time.comms:_RequestFrame": None,
            "airflow.sdk.execution_time.comms:_ResponseFrame": None,
            "airflow.sdk.execution_time.connection_test_supervisor:Client": None,
            "airflow.sdk.execution_time.supervisor:WatchedSubprocess.pid": None,
            "airflow.sdk.execution_time.supervisor:WatchedSubprocess.selector": None,
            "airflow.sdk.execution_time.supervisor:WatchedSubprocess._on_socket_closed": "sock",
            "airflow.sdk.execution_time.supervisor:WatchedSubprocess._register_pipe_readers": (
                "stdout, stderr, requests, logs, data"
            ),
            "airflow.sdk.execution_time.supervisor:WatchedSubprocess._service_subprocess": (
                "max_wait_time, raise_on_timeout, expect_signal"
            ),
            "airflow.sdk.execution_time.supervisor:WatchedSubprocess._signal_subprocess": "sig",
            "airflow.sdk.execution_time.supervisor:ActivitySubprocess.final_state": None,
            "airflow.sdk.execution_time.supervisor:_configure_logs_over_json_channel": "log_fd",
            "airflow.sdk.execution_time.supervisor:_fork_main": (
                "requests, child_stdout, child_stderr, log_fd, target"
            ),
            "airflow.sdk.execution_time.supervisor:_subprocess_main": "",
            "airflow.sdk.execution_time.task_runner:CommsDecoder": (
                "log, socket, resp_decoder, id_counter, body_decoder, err_decoder, thread_lock, async_lock"
            ),
        },
    ),
)

#: What signal itself is made of: to load that takes too long for a command's first instruction.
PYTHON: Final = tuple(
    Borrowed(library="", name=f"_signal:{name}", file=f"{folder}/__main__.py")
    for folder in ("broker_bridge", "broker_bridge/edge_logs", "certs", "worker")
    for name in ("SIGINT", "SIG_BLOCK", "pthread_sigmask")
)

BORROWED: Final = AIRFLOW + AMQTT + ASYNCIO + PAHO + PYTHON + UVICORN + WEBSOCKETS
