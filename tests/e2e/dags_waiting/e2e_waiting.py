"""Tasks and callbacks that wait: no worker serves their queue."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

NOWHERE = "nowhere"


def too_late(**_: object) -> None:
    """Stand for what a deadline calls."""


@dag(schedule=None)
def e2e_waiting() -> None:
    """Wait for a worker."""

    @task(queue=NOWHERE)
    def wait() -> None:
        raise AssertionError("nobody was to run this")

    wait()


@dag(
    schedule=None,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=1),
        callback=SyncCallback(too_late),
    ),
)
def e2e_late() -> None:
    """Miss a deadline; the callback goes where the task goes, where nobody is."""

    @task(queue=NOWHERE)
    def wait() -> None:
        raise AssertionError("nobody was to run this")

    wait()


@dag(schedule=None)
def e2e_empty_queue() -> None:
    """Name an empty queue."""

    @task(queue="")
    def odd() -> str:
        return "an empty queue is the default queue"

    odd()


e2e_waiting()
e2e_late()
e2e_empty_queue()
