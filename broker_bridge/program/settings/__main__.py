"""``python -m edge_mqtt.broker_bridge.program.settings FOLDER``: write the tables of the documentation in FOLDER."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_mqtt.broker_bridge.program.settings.documentation import write_into


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the tables of settings into the pages of the documentation.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Where configuration.md and its neighbours are.")
    write_into(parser.parse_args().folder)


if __name__ == "__main__":
    main()
