"""``edge-certs`` from its first moment on."""

# Not signal: to load it takes longer than all else here, and Ctrl-C would show a traceback meanwhile.
import _signal  # type: ignore[import-not-found]  # built in
import sys


def main() -> int:
    """Run the command and return its exit code."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGINT})
    from edge_mqtt.broker_bridge.program import interrupt

    interrupt.end_quietly()
    from edge_mqtt.certs.cli import main as run

    code = run()
    interrupt.ignore()
    return code


if __name__ == "__main__":
    sys.exit(main())
