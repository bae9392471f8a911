"""``edge-bridge`` from its first moment on."""

# Not signal: to load it takes longer than all else here, and Ctrl-C would show a traceback meanwhile.
import _signal  # type: ignore[import-not-found]  # built in
import sys


def main() -> int:
    """Run the command and return its exit code; its own signal handlers take over once it works."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGINT})
    from edge_mqtt.broker_bridge.program import interrupt

    interrupt.end_quietly()
    from edge_mqtt.broker_bridge.program.extras import require_extra

    require_extra("edge-bridge", "bridge", ("airflow", "amqtt", "httpx", "sqlalchemy", "websockets"))
    from edge_mqtt.broker_bridge.cli import main as run

    code = run()
    interrupt.ignore()
    return code


if __name__ == "__main__":
    sys.exit(main())
