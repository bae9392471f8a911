"""Tasks of a team that are queued twice: under one task instance, and as another try."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, dag, get_current_context, task


class DefersOnce(BaseOperator):
    """Goes on as another job of the same try."""

    def execute(self, context: Any) -> None:
        """Wait in the triggerer."""
        del context
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=1)), method_name="resume")

    def resume(self, context: Any, event: Any) -> str:
        """Tell where this runs."""
        del context, event
        return os.environ["AIRFLOW_HOME"]


@dag(schedule=None)
def e2e_team() -> None:
    """Defer one task, and let another fail once."""
    DefersOnce(task_id="defers")

    @task(retries=1, retry_delay=timedelta(0))
    def fails_once() -> str:
        assert get_current_context()["ti"].try_number > 1, "the first try is to fail"
        return os.environ["AIRFLOW_HOME"]

    fails_once()


e2e_team()
