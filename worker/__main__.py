"""``edge-worker`` from its first moment on."""

from __future__ import annotations

import sys

from edge_mqtt.broker_bridge.program.interrupt import end_quietly


def main() -> int:
    """Run the command and return its exit code; its own signal handlers take over once it works."""
    end_quietly()
    from edge_mqtt.broker_bridge.program.extras import require_extra

    require_extra(
        "edge-worker", "worker", ("airflow", "httpx", "inotify_simple", "psutil", "setproctitle", "uvicorn")
    )
    from edge_mqtt.worker.cli import main as run

    # Until Airflow is loaded: what reads the command line imports, too.
    return run()


if __name__ == "__main__":
    sys.exit(main())
