"""Odd messages by the million: ``python -m tests.fuzz.run --messages 1000000 --seed 7``.

Half of them go to a bridge whose ledger is in SQLite, half to one with PostgreSQL where that is installed. The bridge
is started anew again and again, on the ledger that it had. Exit code 1 when something went wrong inside.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tests.chaos.postgres import Postgres, PostgresMissing
from tests.fuzz.bridge_under_fuzz import ROUND, running

#: Packets after which the bridge is started anew, and after which it gets a new ledger.
RESTART_EVERY = 4_000
RENEW_EVERY = 40_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of some packets."""

    packets: int
    rejected: int
    #: In which state how many are at the end.
    jobs: Counter[str]
    problems: tuple[str, ...]


def fuzz(folder: Path, ledger_url: str, messages: int, seed: str) -> Outcome:
    """Send a bridge so many packets; ``ledger_url`` names a ledger that may be there already."""
    return asyncio.run(_fuzz(folder, ledger_url, messages, seed))


async def _fuzz(folder: Path, ledger_url: str, messages: int, seed: str) -> Outcome:
    async with running(folder, ledger_url, random.Random(seed)) as (bridge, odd):
        packets = iter(odd)
        problem: list[str] = []
        while bridge.packets < messages and not bridge.problems.found:
            try:
                await bridge.receive(islice(packets, min(ROUND, messages - bridge.packets)))
            except Exception as error:  # noqa: BLE001  told with the others
                problem.append(f"the bridge stands still: {type(error).__name__}: {error}")
                break
            if bridge.problem is not None:
                problem.append(f"the ledger takes nothing: {bridge.problem}")
                break
        return Outcome(
            packets=bridge.packets,
            rejected=bridge.rejected,
            jobs=bridge.jobs,
            problems=(*bridge.problems.found, *problem),
        )


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    # What is said about odd packets is not looked at.
    logging.basicConfig(handlers=[logging.NullHandler()])
    logging.getLogger().setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        found = _fuzz_sqlite(folder, options.messages // 2, options.seed)
        folder.chmod(0o755)
        try:
            with Postgres(folder / "pg") as server:
                found += _fuzz_ledger(
                    folder, server.url, "postgresql", options.messages - options.messages // 2, options.seed
                )
        except PostgresMissing as error:
            print(f"without PostgreSQL: {error}")
            found += _fuzz_sqlite(folder, options.messages - options.messages // 2, f"{options.seed}-more")
    return 1 if found else 0


def _fuzz_sqlite(folder: Path, messages: int, seed: str) -> int:
    return _fuzz_ledger(folder, f"sqlite:///{folder / 'ledger'}", "sqlite", messages, seed)


def _fuzz_ledger(folder: Path, url: str, kind: str, messages: int, seed: str) -> int:
    """Return how many starts of a bridge have met problems, which are printed."""
    began, done, rejected, bad = time.monotonic(), 0, 0, 0
    jobs: Counter[str] = Counter()
    while done < messages:
        ledger = f"{url}-{done // RENEW_EVERY}.db" if kind == "sqlite" else url
        outcome = fuzz(folder, ledger, min(RESTART_EVERY, messages - done), f"{seed}-{kind}-{done}")
        done += RESTART_EVERY
        rejected += outcome.rejected
        jobs += outcome.jobs
        for problem in outcome.problems:
            print(
                f"{kind}, seed {seed}, start {done // RESTART_EVERY}, packet {outcome.packets}: {problem}", flush=True
            )
        bad += bool(outcome.problems)
    took = time.monotonic() - began
    print(f"{kind}: {messages} packets in {took:.0f} s, {rejected} refused; jobs {dict(jobs)}", flush=True)
    print(f"{kind}: {bad} starts with problems", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
