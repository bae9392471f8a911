"""The executor: translates between Airflow's scheduler and the client of the bridge, and decides nothing itself.

Airflow's rules that shape it, beside those in ``airflow_hooks``:

- An event that Airflow has passed over is offered again at the next ``sync``. Only when Airflow has handled a final
  event is the bridge told to forget it.
- The info of a task's queued or running event is written to ``external_executor_id``, which that of a later job may
  stand in already: a deferred task keeps its key, and another scheduler may have queued it since. So there is no
  running event of a task, which tells Airflow itself that it runs.
- What the scheduler drops from ``running`` by itself (no heartbeat, connection test overdue) it has given up.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.exceptions import AirflowConfigException
from airflow.models.callback import CallbackKey
from airflow.utils.state import TaskInstanceState

from edge_mqtt.broker_bridge.program.settings.setting import SettingError
from edge_mqtt.broker_bridge.program.settings.unknown import warn_of_unknown_settings
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobFinished, JobStarted, Outcome, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.executor.airflow_hooks import AirflowHooks
from edge_mqtt.executor.bridge_client import BridgeClient, PreparedConnection
from edge_mqtt.executor.job_index import JobIndex, Offer
from edge_mqtt.executor.outbox import UnknownJobs
from edge_mqtt.executor.settings import ExecutorSettings, load_settings
from edge_mqtt.executor.workloads import (
    Submission,
    callback_key,
    is_final,
    is_task_key,
    resubmission_of,
    submission_of,
)

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger(__name__)

#: Seconds to wait for the bridge when tasks of a dead scheduler are taken over. Airflow holds their rows locked
#: meanwhile; without an answer they are adopted all the same.
ADOPT_TIMEOUT_S = 3.0
#: Seconds that a scheduler's shutdown waits for the bridge to have what was just submitted and acknowledged.
FLUSH_TIMEOUT_S = 5.0
#: What Airflow is told of a task whose process ended well and never told Airflow a state (``os._exit``).
WITHOUT_A_WORD = "exit code 0, but the task has told Airflow no state"
#: What Airflow is told of jobs that the bridge does not know.
NEVER_ARRIVED = "the edge bridge does not know this job: it never arrived there"
FORGOTTEN = "the edge bridge no longer knows this job: was its ledger restored from a backup, or begun anew?"


class EdgeMqttExecutor(AirflowHooks):
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
        self._job_index: JobIndex[WorkloadKey] = JobIndex()
        self._settings: ExecutorSettings | None = None
        self._client: BridgeClient | None = None
        self._incarnation = uuid.uuid4().hex

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Read the settings and begin connecting in the background.

        :raises AirflowConfigException: a setting is missing or wrong.
        """
        try:
            self._settings = load_settings(self.conf, team=self.team_name)
        except SettingError as error:
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

    def _make_client(self, settings: ExecutorSettings) -> BridgeClient:
        name = "executor" if self.team_name is None else f"executor[{self.team_name}]"
        return BridgeClient(
            lambda: self._prepare_connection(settings), topics=Topics(settings.topic_prefix), name=name
        )

    def _prepare_connection(self, settings: ExecutorSettings) -> PreparedConnection:
        from edge_mqtt.executor.connect import prepare_connection

        return prepare_connection(settings, incarnation=self._incarnation)

    # ------------------------------------------------------------ Airflow -> bridge

    def submit_workloads(self, workloads: Sequence[ExecutorWorkload]) -> None:
        """Submit workloads whose state is committed."""
        client, settings = self._started()
        for workload in workloads:
            submission = submission_of(workload, default_queue=settings.default_queue)
            job_id = submission.job.job_id
            self._dismiss_earlier(submission.key, self._job_index.set_current(submission.key, job_id))
            self.unqueue(submission.key)
            self.running.add(submission.key)
            size = submission.size()
            if size > settings.max_message_bytes:
                self._fail_too_large(submission, size)
                continue
            client.submit(submission.job, submission.token)
            log.info(
                "job %s submitted to queue %r: %s",
                job_id,
                submission.job.queue,
                submission.key,
                extra={"action": "job_submitted", "job_id": job_id},
            )
            if not submission.id_is_known:
                # Written to the database by this event; an adoption before that resets the task.
                self.change_state(submission.key, TaskInstanceState.QUEUED, job_id, remove_running=False)

    def _fail_too_large(self, submission: Submission, size: int) -> None:
        """Fail a workload that is too large to travel."""
        _, settings = self._started()
        limit = settings.max_message_bytes
        why = f"the workload of {size} bytes is over the limit of {limit} bytes ([edge_mqtt] max_message_size)"
        job_id = submission.job.job_id
        extra = {"action": "workload_too_large", "job_id": job_id}
        log.error("job %s is not submitted: %s: %s", job_id, why, submission.key, extra=extra)
        self._on_finished(JobFinished(job_id=job_id, type=submission.job.type, outcome=Outcome.FAILED, detail=why))

    def _dismiss_earlier(self, key: WorkloadKey, earlier: JobId | None) -> None:
        """Take no more notice of earlier jobs of ``key``: a later one is Airflow's concern now."""
        client, _ = self._started()
        if earlier is not None:
            client.dismiss(earlier)
        for job_id in self._job_index.offered_jobs_of(key):
            self._settle_offer(job_id)

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Have a task's job stopped and forget it; says nothing to Airflow."""
        key = ti.key
        self.unqueue(key)
        self.running.discard(key)
        job_id = self._job_index.remove_key(key) or ti.external_executor_id
        if self._client is None:
            return
        self._dismiss_earlier(key, None)
        if job_id is not None:
            self._client.cancel(JobId(job_id))

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Take over the tasks of a scheduler that died; return those that the bridge does not know.

        A task that is given back is reset by Airflow, which costs it a try. So one that is still queued is submitted
        again first, under its id: the bridge takes no job twice, and one that never arrived there arrives now. It is
        taken over when the bridge has answered that, for a job that it was asked about in vain it would take no more.
        And when the bridge can't be asked everything is adopted; jobs that turn out to be unknown later are reported
        as failed, which Airflow retries.
        """
        client, settings = self._started()
        jobs = {JobId(ti.external_executor_id): ti for ti in tis if ti.external_executor_id}
        if not jobs:
            return tis
        for ti in jobs.values():
            submission = resubmission_of(ti, generator=self.jwt_generator, default_queue=settings.default_queue)
            # One that is too large fails when it is queued again, with the reason.
            if submission is not None and submission.size() <= settings.max_message_bytes:
                client.submit(submission.job, submission.token)
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
            self._adopt(ti.key, job_id)
        return [ti for ti in tis if JobId(ti.external_executor_id or "") not in adopted]

    def _adopt(self, key: WorkloadKey, job_id: JobId) -> None:
        self._dismiss_earlier(key, self._job_index.set_current(key, job_id))
        self.running.add(key)
        log.info("job adopted", extra={"action": "job_adopted", "job_id": job_id})
        finished = self._job_index.claim_event(job_id)
        if finished is not None:
            self._on_finished(finished)

    # ------------------------------------------------------------ bridge -> Airflow

    def sync(self) -> None:
        """Turn the bridge's news into Airflow's events."""
        if self._client is None:
            return
        self._follow_up_offers()
        for event in self._client.read_news():
            if isinstance(event, JobStarted):
                self._on_started(event)
            elif isinstance(event, JobFinished):
                self._on_finished(event)
            else:
                self._on_unknown(event)
        self._cancel_abandoned()
        self._acknowledge_unclaimed()
        self.keep_log_entries()

    def _on_started(self, event: JobStarted) -> None:
        key = self._job_index.key_of(event.job_id)
        if isinstance(key, CallbackKey):
            self.running_state(key)

    def _on_finished(self, event: JobFinished) -> None:
        if self._job_index.is_offered(event.job_id):
            return
        key = self._job_index.key_of(event.job_id)
        if event.revoked:
            self._let_go(key, event, f"another executor has it now: {event.detail}")
            return
        if key is None and event.type is WorkloadType.CALLBACK:
            # Of a scheduler that died: Airflow adopts no callbacks, so no other executor will tell it.
            key = callback_key(event.job_id)
        if key is None:
            # Of a scheduler that died: this one may be asked to adopt it yet.
            self._job_index.keep_unclaimed(event, self._now())
            return
        if event.told and not is_final(event.told):
            self._let_go(key, event, f"its task has told Airflow that it is {event.told}, and goes on as another job")
            return
        if event.outcome is not Outcome.SUCCESS:
            self.fail(key, info=event.detail or event.outcome.value)
        elif event.type is WorkloadType.TASK and not event.told:
            self.fail(key, info=WITHOUT_A_WORD)
        else:
            self.success(key, info=event.detail or None)
        if event.outcome is Outcome.LOST:
            self.log_task_event(event="edge job lost", extra=event.detail, ti_key=key)
        self._job_index.remove_key(key)
        offered = self.event_buffer[key]
        self._job_index.add_offer(Offer(key=key, job_id=event.job_id, event=offered, offered_at=self._now()))

    def _let_go(self, key: WorkloadKey | None, event: JobFinished, why: str) -> None:
        """Let go of a job of which Airflow knows from others all that concerns it."""
        if key is not None:
            extra = {"action": "job_let_go", "job_id": event.job_id}
            log.info("job %s is let go: %s", event.job_id, why, extra=extra)
            self._job_index.remove_key(key)
            self.running.discard(key)
        self._settle_offer(event.job_id)

    def _on_unknown(self, event: UnknownJobs) -> None:
        detail = FORGOTTEN if event.forgotten else NEVER_ARRIVED
        for job_id in event.job_ids:
            if self._job_index.key_of(job_id) is None:
                continue
            log.warning("job %s has failed: %s", job_id, detail, extra={"action": "job_unknown", "job_id": job_id})
            self._on_finished(JobFinished(job_id=job_id, outcome=Outcome.LOST, detail=detail))

    def _follow_up_offers(self) -> None:
        """Settle the final events that Airflow has handled and offer those again that it passed over."""
        passed_over = self.pop_passed_over()
        now = self._now()
        for offer in self._job_index.offers():
            if offer.due_at is not None:
                if offer.due_at <= now:
                    offer.due_at = None
                    self.event_buffer.setdefault(offer.key, offer.event)
            elif offer.key in self.event_buffer:
                continue
            elif not is_task_key(offer.key) or passed_over.get(offer.key) != offer.event:
                self._settle_offer(offer.job_id)
            elif not offer.plan_reoffer(now):
                log.warning(
                    "Airflow does not take the final event of a job: its task instance is gone",
                    extra={"action": "event_not_taken", "job_id": offer.job_id},
                )
                self._settle_offer(offer.job_id)

    def _settle_offer(self, job_id: JobId) -> None:
        client, _ = self._started()
        self._job_index.remove_offer(job_id)
        client.acknowledge(job_id)

    def _cancel_abandoned(self) -> None:
        """Stop the jobs that the scheduler has given up by taking them from ``running`` itself."""
        client, _ = self._started()
        for key in self._job_index.keys() - self.running:
            job_id = self._job_index.remove_key(key)
            if job_id is not None:
                log.warning(
                    "Airflow has given up a job: cancelling it", extra={"action": "job_abandoned", "job_id": job_id}
                )
                client.cancel(job_id)

    def _acknowledge_unclaimed(self) -> None:
        """Acknowledge final events of jobs that were not adopted: their tasks reported their own end."""
        client, settings = self._started()
        for job_id in self._job_index.expire_unclaimed(self._now() - settings.unclaimed_for_s):
            client.acknowledge(job_id)

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
            len(self._job_index),
            len(self._job_index.offers()),
            self._client.status(),
            extra={"action": "debug_dump"},
        )

    def _started(self) -> tuple[BridgeClient, ExecutorSettings]:
        if self._client is None or self._settings is None:
            raise RuntimeError("the executor is not started: call start() first")
        return self._client, self._settings

    def _now(self) -> float:
        return time.monotonic()
