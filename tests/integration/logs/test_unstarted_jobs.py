"""Jobs that failed before they began: one line in the log says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.messages import Outcome
from tests.support.scenario_bridge_log_ends import lines_of, read, write_notice
from tests.support.scenario_bridge_logs import Centre, centre_test

WHY = "the log file d/r/t/1.log cannot be looked at: Too many levels of symbolic links"
UNSTARTED: dict[str, Any] = {
    "state": CentralJobState.FINISHED,
    "outcome": Outcome.FAILED,
    "starter": None,
    "detail": WHY,
}


@pytest.mark.parametrize("log_size", [None, 0])
@pytest.mark.parametrize("ships_log", [True, False])
def test_a_job_that_failed_before_it_began_has_a_line_that_says_why_once(
    tmp_path: Path, log_size: int | None, *, ships_log: bool
) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, **UNSTARTED, log_size=log_size, ships_log=ships_log)
        # The bridge died before it wrote the line.
        await centre.restart()
        await centre.settled()
        assert lines_of(centre.text()) == [f"the task was not started: {WHY}"]
        await centre.restart()
        await write_notice(centre, "j")
        assert len(lines_of(centre.text())) == 1
        reply = await read(centre, 0)
        assert (reply.streams[0].complete, reply.streams[0].missing) == (True, "")

    centre_test(tmp_path, test)


@pytest.mark.parametrize("parent_is_there", [True, False])
def test_a_job_whose_log_has_no_place_in_the_centre_either_gets_no_line_and_harms_nothing(
    tmp_path: Path, *, parent_is_there: bool
) -> None:
    async def test(centre: Centre) -> None:
        if parent_is_there:
            (centre.folder / "d").mkdir(parents=True)
        centre.records.put("j", 1, **UNSTARTED, log_path=f"d/{'long' * 64}/1.log")
        await write_notice(centre, "j")
        assert centre.receiver.health.problem is None
        assert not centre.receiver._without_notice

    centre_test(tmp_path, test)
