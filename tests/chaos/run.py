"""One run of chaos: a stream of Dag runs, faults by plan, then a good end for everything, and the verdict."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.quickstart.errors import WaitedTooLong
from tests.chaos.faults import Fault, plan_faults
from tests.chaos.harm import Harm
from tests.chaos.postgres import programs
from tests.chaos.record import Record
from tests.chaos.site import Site
from tests.chaos.stream import Stream
from tests.chaos.verdict import Verdict, judge

#: Seconds between two looks at what is due.
_TICK_S = 0.25
#: Seconds between two looks at the stream; each asks the api-server for every run.
_FEED_S = 1.5
#: Seconds in which everything must have ended once nothing is disturbed any more.
_END_S = 420.0


def run_chaos(*, seconds: float, seed: int, keep: bool, say: Callable[[str], None]) -> Verdict:
    """Make chaos for ``seconds`` and return what came of it.

    :param seed: draws the faults and the stream; with an odd one the bridge's ledger is in PostgreSQL.
    :param keep: leave the folder there even when all is well; it always stays when something is not.
    :param say: is given one line at a time.
    :raises PostgresMissing: PostgreSQL or a driver for it is not installed.
    :raises StackError: the system could not be started, or a part of it died by itself.
    """
    programs()
    # Not below a long path: a unix socket's may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    ledger_in_postgres = bool(seed % 2)
    good = False
    try:
        where = "PostgreSQL" if ledger_in_postgres else "SQLite"
        say(f"seed {seed}, {seconds:.0f} s of faults, the ledger in {where}, in {directory}")
        with Site(directory, ledger_in_postgres=ledger_in_postgres) as site:
            say("everything is up")
            verdict = _make_chaos(site, seconds, seed, say)
        verdict.after_the_end(site)
        good = not verdict.problems
        return verdict
    finally:
        if keep or not good:
            say(f"everything is kept in {directory}")
        else:
            shutil.rmtree(directory)


def _make_chaos(site: Site, seconds: float, seed: int, say: Callable[[str], None]) -> Verdict:
    began = time.monotonic()
    stream = Stream(site.stack, seed)
    record = Record()
    verdict = Verdict(record=record)
    with contextlib.closing(Harm(site, stream, record, say)) as harm:
        _disturb(harm, stream, plan_faults(seed, seconds), seconds, say)
        say("no fault begins any more; waiting for every run to end")
        calm_at = time.monotonic()

        def ended() -> bool:
            harm.tend()
            return harm.finished() and stream.look() and not stream.unfinished

        try:
            site.stack.wait_until(ended, "every run to end", timeout_s=_END_S, poll_s=1.0)
        except WaitedTooLong as error:
            record.problems.append(f"{error}: {stream.unfinished} go on")
    verdict.seconds_to_end = time.monotonic() - calm_at
    site.stack.check_alive()
    judge(site, stream, verdict)
    verdict.seconds = time.monotonic() - began
    return verdict


def _disturb(harm: Harm, stream: Stream, faults: list[Fault], seconds: float, say: Callable[[str], None]) -> None:
    """Let every fault begin in time and last its time, and keep the stream going meanwhile."""
    began = time.monotonic()
    waiting = deque(faults)
    # With the time of their ends: a fault that began late ends late.
    going_on: list[tuple[float, Fault]] = []

    def tell(line: str) -> None:
        say(f"{time.strftime('%H:%M:%S')} {time.monotonic() - began:6.1f} s  {line}")

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream") as thread:
        # In a thread: an api-server that is coming up takes seconds to answer, and the faults must not wait for it.
        feeding, fed_at = thread.submit(stream.feed), 0.0
        while waiting or going_on or time.monotonic() - began < seconds:
            now = time.monotonic() - began
            for over in [each for each in going_on if each[0] <= now]:
                going_on.remove(over)
                harm.end(over[1])
                tell(f"over: {over[1]}")
            while waiting and waiting[0].at_s <= now:
                fault = waiting.popleft()
                tell(str(fault))
                harm.begin(fault)
                if fault.lasts_s:
                    going_on.append((now + fault.lasts_s, fault))
            harm.tend()
            if feeding.done() and now - fed_at >= _FEED_S:
                feeding.result()
                feeding, fed_at = thread.submit(stream.feed), now
            time.sleep(_TICK_S)
        feeding.result()
