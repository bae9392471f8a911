"""``python -m edge_mqtt.broker_bridge.protocol``."""

from __future__ import annotations

import sys

from edge_mqtt.broker_bridge.protocol.cli import main

if __name__ == "__main__":
    sys.exit(main())
