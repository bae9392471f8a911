"""Where a job's log begins must be known before it is launched: else it would ship the bytes of an earlier try."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scenario_worker_parts import Log, Scene, assignment, hear_worker, play


@pytest.fixture
def worker_log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    yield from hear_worker(caplog)


def test_job_whose_log_file_cannot_be_looked_at_is_not_started(tmp_path: Path, worker_log: Log) -> None:
    # A link to itself leads nowhere, which is not the same as that there is nothing.
    (tmp_path / "logs").symlink_to("logs")
    assign = assignment()
    assign = assign.model_copy(update={"job": assign.job.model_copy(update={"log_path": "d/r/1.log"})})

    async def scenario(scene: Scene) -> None:
        await scene.assignments.answer_assignment(assign)
        await worker_log.heard("job_rejected", 1)
        assert not scene.requests
        assert not len(scene.jobs)

    play(tmp_path, scenario)
