"""Runs seeds from the command line: many for a verdict, or one with its trace."""

from __future__ import annotations

import os
import tempfile

# Before Airflow's first import, which reads it. Without a secret Airflow would say so at every start.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.setdefault("AIRFLOW__API_AUTH__JWT_SECRET", "simulated")

import argparse
import multiprocessing
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence

from tests.simulation.plan import Plan
from tests.simulation.promises import PromiseBroken
from tests.simulation.world import simulate

#: Lines of a broken seed's trace that are shown.
TAIL = 25
#: Seeds that no machine runs in a second.
MOST_A_SECOND = 1_000


def try_seed(seed: int, reshape: Callable[[Plan], Plan] | None = None) -> tuple[str, Counter[str]]:
    """Return what is wrong with a seed, empty when nothing is, and what happened how often.

    :param reshape: changes its plan.
    """
    try:
        return "", simulate(seed, reshape=reshape).tally
    except PromiseBroken as broken:
        return str(broken), Counter()
    except Exception:  # noqa: BLE001 -- a seed that makes a part fail is what we look for
        return f"seed {seed}: a part failed\n{traceback.format_exc()}", Counter()


def tail_of(seed: int) -> str:
    """Return the last lines of a seed's trace."""
    lines: deque[str] = deque(maxlen=TAIL)
    try:
        simulate(seed, lines.append)
    except Exception as error:  # noqa: BLE001 -- that it fails is why we look
        lines.append(str(error))
    return "\n".join(line[:200] for line in lines)


def run(seeds: Sequence[int], *, processes: int, until_s: float | None) -> int:
    """Run seeds, in order, until there is no more or the time is over; return how many were broken."""
    began, done, broken = time.monotonic(), 0, 0
    tally: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for seed, (verdict, happened) in zip(seeds, pool.imap(try_seed, seeds), strict=True):
            done += 1
            tally += happened
            if verdict:
                broken += 1
                print(f"{tail_of(seed)}\n{verdict}", file=sys.stderr, flush=True)
            if until_s is not None and time.monotonic() - began >= until_s:
                pool.terminate()
                break
    print(f"{done} seeds, {broken} broken, {time.monotonic() - began:.1f} s; {summary(tally)}")
    return broken


def summary(tally: Counter[str]) -> str:
    """Return what happened how often, for people."""
    return ", ".join(f"{count} {what}" for what, count in sorted(tally.items()))


def main() -> int:
    """Run what the command line names; return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many seeds to run (default: as many as there is time for)")
    parser.add_argument("--seconds", type=float, help="how long to run seeds (default: for as long as they take)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run only this one, and show the end of its trace when it is broken")
    parser.add_argument("--trace", action="store_true", help="print everything that happens in it")
    options = parser.parse_args()
    if options.seed is not None:
        return run_one(options.seed, trace=options.trace)
    if options.seeds is None and options.seconds is None:
        parser.error("give --seeds, --seconds or --seed")
    # The pool reads ahead: more than can be run in the time, but not without end.
    count = options.seeds or int(options.seconds * MOST_A_SECOND)
    seeds = range(options.first, options.first + count)
    return 1 if run(seeds, processes=os.cpu_count() or 1, until_s=options.seconds) else 0


def run_one(seed: int, *, trace: bool) -> int:
    """Run one seed; return 1 when it is broken."""
    if trace:
        try:
            simulate(seed, print)
        except PromiseBroken as broken:
            print(broken, file=sys.stderr)
            return 1
        return 0
    verdict, _ = try_seed(seed)
    if verdict:
        print(tail_of(seed))
        print(verdict, file=sys.stderr)
    return 1 if verdict else 0


if __name__ == "__main__":
    sys.exit(main())
