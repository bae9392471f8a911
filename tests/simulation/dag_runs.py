"""The Dag runs in Airflow's database: those that tasks trigger, and those that others make under the same ids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from edge_mqtt.broker_bridge.protocol.ids import JobId
from tests.simulation.plan import Work

if TYPE_CHECKING:
    from tests.simulation.world import World

OK, CREATED, NOT_FOUND, CONFLICT = 200, 204, 404, 409
#: Why Airflow refuses to make a run whose id there is already (``trigger_dag_run`` in its routes).
ALREADY_EXISTS: Final = "already_exists"
#: Where the runs are in the Execution API.
TARGET: Final = "dag-runs/triggered"


def own_id(work: Work) -> str:
    """Return the id that a task gives to the run that it triggers, unless it takes a new one every time."""
    return f"of-task-{work.number}"


def conf_of(work: Work) -> dict[str, Any]:
    """Return what a task hands to the run: the same in every try."""
    return {"task": work.number}


@dataclass(frozen=True, slots=True)
class Maker:
    """A call that triggers a run: of which job, and how many such calls the job made before."""

    job_id: JobId
    number: int

    def __str__(self) -> str:
        return f"trigger call {self.number} of {self.job_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DagRun:
    """A row."""

    run_type: str
    conf: dict[str, Any]
    #: None: a user, or a task of another executor.
    maker: Maker | None


class DagRuns:
    """Every Dag run that is triggered by somebody."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: dict[str, DagRun] = {}

    def plan_others(self) -> None:
        """Let others make some of the runs, each at its time."""
        for work in self._world.plan.work:
            if work.run_made_at is not None:
                self._world.clock.after(work.run_made_at, partial(self._make_another, work))

    def _make_another(self, work: Work) -> None:
        """Make a task's run: by hand with the same ``conf``, or by a task that hands it another."""
        by_hand = DagRun(run_type="manual", conf=conf_of(work), maker=None)
        by_task = DagRun(run_type="operator_triggered", conf={"task": "another"}, maker=None)
        self._runs.setdefault(own_id(work), self._world.chance.choice([by_hand, by_task]))

    def maker(self, run_id: str) -> Maker | None:
        """Return the call that made a run; None when somebody else did, or nobody yet."""
        run = self._runs.get(run_id)
        return None if run is None else run.maker

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Answer the question for a run, or the call that triggers it."""
        run_id = target.rpartition("/")[2]
        return self._look(run_id) if method == "GET" else self._trigger(run_id, json.loads(body))

    def _look(self, run_id: str) -> tuple[int, bytes]:
        run = self._runs.get(run_id)
        if run is None:
            return NOT_FOUND, _refusal("not_found")
        return OK, json.dumps({"run_type": run.run_type, "conf": run.conf, "clear_number": 0}).encode()

    def _trigger(self, run_id: str, body: dict[str, Any]) -> tuple[int, bytes]:
        # Of whose call it is Airflow hears nothing; it is for the verdict.
        maker = Maker(JobId(body["job"]), body["call"])
        if run_id in self._runs:
            self._world.tally["own run refused" if self.maker(run_id) == maker else "others' run refused"] += 1
            return CONFLICT, _refusal(ALREADY_EXISTS)
        self._world.tally["run triggered"] += 1
        self._world.promises.run_made(maker)
        self._runs[run_id] = DagRun(run_type="operator_triggered", conf=body["conf"], maker=maker)
        return CREATED, b""


def _refusal(reason: str) -> bytes:
    return json.dumps({"detail": {"reason": reason, "message": "no"}}).encode()
