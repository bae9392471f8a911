"""Runs seeds from the command line: many for a verdict, or one with its trace."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation.promises import PromiseBroken
from tests.simulation.world import simulate


def main() -> int:
    """Run what the command line names; return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run only this one")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    began, broken = time.monotonic(), 0
    for seed in seeds:
        try:
            simulate(seed, print if options.trace else None)
        except PromiseBroken as error:
            broken += 1
            print(error, file=sys.stderr)
        except Exception:  # noqa: BLE001 -- a seed that makes a part fail is what we look for
            broken += 1
            print(f"seed {seed}: a part failed", file=sys.stderr)
            traceback.print_exc()
    print(f"{len(seeds)} seeds, {broken} broken, {time.monotonic() - began:.1f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
