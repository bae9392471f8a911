"""The executor: translates between Airflow's scheduler and the client of the bridge, and decides nothing itself.

What Airflow's scheduler calls never raises because of one workload: the workload fails with the reason.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.exceptions import AirflowConfigException
from airflow.executors.workloads import ExecuteCallback, ExecuteTask
from airflow.utils.state import TaskInstanceState

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.settings.unknown import warn_of_unknown_settings
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import Outcome
from edge_mqtt.broker_bridge.protocol.messages.bounds import is_job_id
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.executor.airflow_rows import queue_of_run, store_job_id
from edge_mqtt.executor.bridge_client import BridgeClient, PreparedConnection
from edge_mqtt.executor.certificate_claims import CertificateClaim, claim_certificate
from edge_mqtt.executor.fault_isolation import isolated
from edge_mqtt.executor.job_events import JobEvents
from edge_mqtt.executor.settings import ExecutorSettings, load_settings
from edge_mqtt.executor.workloads import (
    job_id_of,
    key_of,
    new_job_id,
    resubmission_of,
    submission_of,
)

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

#: Seconds to wait for the bridge when tasks of a dead scheduler are taken over. Airflow holds their rows locked
#: meanwhile; without an answer they are adopted all the same.
ADOPT_TIMEOUT_S = 3.0
#: Seconds that a scheduler's shutdown waits for the bridge to have what was just submitted and acknowledged.
FLUSH_TIMEOUT_S = 5.0


class EdgeMqttExecutor(JobEvents):
    """Runs workloads on edge workers, through the edge bridge."""

    pre_assigns_external_executor_id = True
    supports_callbacks = True
    supports_connection_test = True
    supports_multi_team = True
    is_local = False
    is_production = True
    serve_logs = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make the executor; it connects at ``start``, because the api-server makes one just to ask about logs."""
        super().__init__(*args, **kwargs)
        #: Of callbacks that are queued in Airflow's sense and not submitted yet.
        self._callback_queues: dict[WorkloadKey, str] = {}
        self._settings: ExecutorSettings | None = None
        self._client: BridgeClient | None = None
        self._claim: CertificateClaim | None = None
        self._incarnation = uuid.uuid4().hex

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Read the settings and begin connecting in the background.

        :raises AirflowConfigException: a setting is missing or wrong.
        """
        try:
            self._settings = load_settings(self.conf, team=self.team_name, shared=conf)
            self._claim = claim_certificate(self._settings, team=self.team_name)
        except ProgramError as error:
            log.critical("%s", error, extra={"action": "settings_error"})
            raise AirflowConfigException(str(error)) from None
        warn_of_unknown_settings(log, os.environ)
        self.use_class_name_as_alias()
        self._client = self._make_client(self._settings)
        self._client.start()
        log.info(
            "handing jobs to the bridge at %s",
            self._settings.bridge_url,
            extra={"action": "executor_started", "bridge_url": self._settings.bridge_url},
        )

    def end(self) -> None:
        """Let what was just submitted reach the bridge, then disconnect; running jobs go on and are adopted later."""
        if self._client is None:
            return
        if not self._client.flush(timeout_s=FLUSH_TIMEOUT_S):
            log.warning(
                "shutting down before the bridge has everything: the next scheduler submits it again",
                extra={"action": "flush_incomplete"},
            )
        self.terminate()

    def terminate(self) -> None:
        """Disconnect at once."""
        if self._client is not None:
            self._client.stop()
        if self._claim is not None:
            self._claim.release()

    def _make_client(self, settings: ExecutorSettings) -> BridgeClient:
        return BridgeClient(
            lambda: self._prepare_connection(settings), topics=Topics(settings.topic_prefix), team=self.team_name
        )

    def _prepare_connection(self, settings: ExecutorSettings) -> PreparedConnection:
        from edge_mqtt.executor.connect import prepare_connection

        return prepare_connection(settings, incarnation=self._incarnation)

    # ------------------------------------------------------------ Airflow -> bridge

    def queue_workload(self, workload: ExecutorWorkload, session: Session) -> None:
        """Take a workload in the scheduler's transaction, and write down or ask there what the job needs of it."""
        with isolated(partial(self._refuse, workload)):
            if isinstance(workload, ExecuteTask) and not (self.is_given_ids and workload.ti.external_executor_id):
                job_id = workload.ti.external_executor_id = new_job_id()
                store_job_id(session, workload.ti.id, job_id)
            elif isinstance(workload, ExecuteCallback):
                self._callback_queues[workload.key] = self._callback_queue(workload, session)
            super().queue_workload(workload, session)

    def _callback_queue(self, workload: ExecuteCallback, session: Session) -> str:
        """Return the queue of a callback that does not name one itself; empty: the default queue."""
        _, settings = self._started()
        if settings.callback_queue:
            return settings.callback_queue
        run = workload.callback.data.get("dag_run_id")
        return queue_of_run(session, run, executors=self.names, or_none=self.is_default) or ""

    def submit_workloads(self, workloads: Sequence[ExecutorWorkload]) -> None:
        """Submit workloads whose state is committed; one that cannot be submitted fails, and no other."""
        for workload in workloads:
            with isolated(partial(self._refuse, workload)):
                self._submit(workload)

    def _submit(self, workload: ExecutorWorkload) -> None:
        client, settings = self._started()
        callback_queue = self._callback_queues.pop(workload.key, "")
        submission = submission_of(workload, default_queue=settings.default_queue, callback_queue=callback_queue)
        submission.check_sendable(settings.max_message_bytes)
        job, key = submission.job, submission.key
        self._make_current(key, job.job_id)
        self.waiting.add(job.job_id, self.now(), queue=job.queue)
        client.submit(job, submission.token)
        log.info(
            "job %s submitted to queue %r: %s",
            job.job_id,
            job.queue,
            key,
            extra={"action": "job_submitted", "job_id": job.job_id},
        )

    def _refuse(self, workload: ExecutorWorkload, why: str) -> None:
        """Fail a workload that cannot be submitted, with the reason in the places where its owner looks."""
        key = key_of(workload)
        if key is None:
            log.error("a %s is not submitted: %s", type(workload).__name__, why, extra={"action": "job_refused"})
            return
        stored = job_id_of(workload)
        job_id = stored if is_job_id(stored) else new_job_id()
        extra = {"action": "job_refused", "job_id": job_id}
        log.error("job %s is not submitted: %s: %s", job_id, why, key, extra=extra)
        self._make_current(key, job_id)
        self.log_task_event(event="edge job not submitted", extra=why, ti_key=key)
        self.finish(key, job_id, Outcome.FAILED, why)

    def _make_current(self, key: WorkloadKey, job_id: JobId) -> None:
        """Have ``job_id`` stand for ``key``, and take no more notice of earlier jobs of it."""
        self._dismiss_earlier(key, self.job_index.set_current(key, job_id))
        self.unqueue(key)
        self.running.add(key)

    def _dismiss_earlier(self, key: WorkloadKey, earlier: JobId | None) -> None:
        """Take no more notice of earlier jobs of ``key``: a later one is Airflow's concern now."""
        client, _ = self._started()
        if earlier is not None:
            self.waiting.remove(earlier)
            client.dismiss(earlier)
        for job_id in self.job_index.offered_jobs_of(key):
            self.settle_offer(job_id)

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Have a task's job stopped and forget it; says nothing to Airflow."""
        with isolated(partial(self.on_fault, JobId(ti.external_executor_id or ""))):
            key = ti.key
            self.unqueue(key)
            self.running.discard(key)
            job_id = self.job_index.remove_key(key) or ti.external_executor_id
            if self._client is None:
                return
            self._dismiss_earlier(key, None)
            if job_id is not None and is_job_id(job_id):
                self.waiting.remove(JobId(job_id))
                self._client.cancel(JobId(job_id))

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Take over the tasks of a scheduler that died; return those that the bridge does not know.

        A task that is given back is reset by Airflow, which costs it a try. So one that is still queued is submitted
        again first, under its id: the bridge takes no job twice, and one that never arrived there arrives now. It is
        taken over when the bridge has answered that, for a job that it was asked about in vain it would take no more.
        And when the bridge can't be asked everything is adopted; jobs that turn out to be unknown later are reported
        as failed, which Airflow retries.
        """
        client, _ = self._started()
        ids = ((JobId(ti.external_executor_id or ""), ti) for ti in tis)
        jobs = {job_id: ti for job_id, ti in ids if is_job_id(job_id)}
        for job_id, ti in jobs.items():
            # One that cannot be submitted fails when it is queued again, with the reason.
            with isolated(partial(self.on_fault, job_id)):
                self._submit_again(ti)
        adoption = client.adopt(tuple(jobs), timeout_s=ADOPT_TIMEOUT_S)
        if adoption.unanswered:
            log.warning(
                "the bridge can't be asked about %d tasks of a scheduler that died: adopting them",
                len(adoption.unanswered),
                extra={"action": "adopted_unasked", "jobs": len(adoption.unanswered)},
            )
        for job_id in adoption.unknown:
            client.dismiss(job_id)
        adopted = {job_id: ti for job_id, ti in jobs.items() if job_id not in adoption.unknown}
        for job_id, ti in adopted.items():
            with isolated(partial(self.on_fault, job_id)):
                self._adopt(ti, job_id)
        return [ti for ti in tis if JobId(ti.external_executor_id or "") not in adopted]

    def _submit_again(self, ti: TaskInstance) -> None:
        client, settings = self._started()
        submission = resubmission_of(ti, generator=self.jwt_generator, default_queue=settings.default_queue)
        if submission is not None:
            submission.check_sendable(settings.max_message_bytes)
            client.submit(submission.job, submission.token)

    def _adopt(self, ti: TaskInstance, job_id: JobId) -> None:
        self._make_current(ti.key, job_id)
        if ti.state == TaskInstanceState.QUEUED:
            self.waiting.add(job_id, self.now())
        log.info("job adopted", extra={"action": "job_adopted", "job_id": job_id})
        finished = self.job_index.claim_event(job_id)
        if finished is not None:
            self.on_finished(finished)

    def sync(self) -> None:
        """Turn the bridge's news into Airflow's events."""
        if self._client is not None:
            self.pass_on_news()

    # ------------------------------------------------------------ for people

    def get_task_log(self, ti: TaskInstance, try_number: int) -> tuple[list[str], list[str]]:
        """Name the source of a running task's lines, which are read from the log folder that the bridge writes.

        Any message keeps Airflow from asking the worker's port 8793, which cannot be reached from here
        (``airflow.utils.log.file_task_handler``); lines of our own would be shown twice.
        """
        named = ti.hostname and ti.try_number == try_number
        worker = f"edge worker {ti.hostname}" if named else "its edge worker"
        return [f"Log received live from {worker} by the edge bridge"], []

    def debug_dump(self) -> None:
        """Log what the executor holds, the connection included; called on the scheduler's SIGUSR2."""
        super().debug_dump()  # type: ignore[no-untyped-call]
        if self._client is None:
            log.info("executor: not started", extra={"action": "debug_dump"})
            return
        log.info(
            "executor: %d current jobs, %d final events that Airflow has not handled, %s",
            len(self.job_index),
            len(self.job_index.offers()),
            self._client.status(),
            extra={"action": "debug_dump"},
        )

    def _started(self) -> tuple[BridgeClient, ExecutorSettings]:
        if self._client is None or self._settings is None:
            raise RuntimeError("the executor is not started: call start() first")
        return self._client, self._settings
