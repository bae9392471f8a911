"""From the bridge's news to Airflow's events, and the final ones followed up until Airflow has handled them.

Airflow's rules that shape it, beside those in ``airflow_hooks``:

- An event that Airflow has passed over is offered again at the next ``sync``. Only when Airflow has handled a final
  event is the bridge told to forget it.
- There is no running event of a task, which tells Airflow itself that it runs: its info would be written to
  ``external_executor_id``, which that of a later job may stand in already.
- What the scheduler drops from ``running`` by itself (no heartbeat, connection test overdue) it has given up.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.models.callback import CallbackKey

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    JobAccepted,
    JobFinished,
    JobStarted,
    Outcome,
    WorkloadType,
)
from edge_mqtt.executor.airflow_hooks import AirflowHooks
from edge_mqtt.executor.airflow_rows import wanted_jobs
from edge_mqtt.executor.bridge_client import BridgeClient
from edge_mqtt.executor.errors import AirflowUnanswering
from edge_mqtt.executor.fault_isolation import isolated
from edge_mqtt.executor.job_index import JobIndex, Offer
from edge_mqtt.executor.outbox import News, UnknownJobs
from edge_mqtt.executor.settings import ExecutorSettings
from edge_mqtt.executor.waiting_jobs import WaitingJobs
from edge_mqtt.executor.workloads import callback_key, is_final, is_task_key

if TYPE_CHECKING:
    from airflow.executors.workloads.types import WorkloadKey

log = logging.getLogger(__name__)

#: What Airflow is told of a task whose process ended well and never told Airflow a state (``os._exit``).
WITHOUT_A_WORD = "exit code 0, but the task has told Airflow no state"
#: What Airflow is told of jobs that the bridge does not know.
NEVER_ARRIVED = "the edge bridge does not know this job: it never arrived there"
FORGOTTEN = "the edge bridge no longer knows this job: was its ledger restored from a backup, or begun anew?"


class JobEvents(AirflowHooks, ABC):
    """The half of the executor that listens to the bridge."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.job_index: JobIndex[WorkloadKey] = JobIndex()
        self.waiting = WaitingJobs()

    @abstractmethod
    def _started(self) -> tuple[BridgeClient, ExecutorSettings]:
        """Return what there is once the executor is started."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    # ------------------------------------------------------------ news

    def pass_on_news(self) -> None:
        """Turn the bridge's news into Airflow's events, and see to what became of earlier ones."""
        client, _ = self._started()
        self._follow_up_offers()
        for event in client.read_news():
            self._take_news(event)
        self._cancel_abandoned()
        self._look_after_waiting()
        self._acknowledge_unclaimed()
        self.keep_log_entries()

    def _take_news(self, event: News) -> None:
        """Pass on what the bridge says; what is wrong with one piece of it concerns its job alone."""
        if isinstance(event, UnknownJobs):
            self._on_unknown(event)
            return
        with isolated(partial(self.on_fault, event.job_id)):
            if isinstance(event, JobAccepted):
                # Of the program that had this name before.
                self.waiting.add(event.job_id, self.now())
            elif isinstance(event, JobStarted):
                self._on_started(event)
            else:
                self.on_finished(event)

    def on_fault(self, job_id: JobId, why: str) -> None:
        """Say that something about a job could not be done."""
        log.error("what concerns job %r could not be done: %s", job_id, why, extra={"action": "job_fault"})

    def _on_started(self, event: JobStarted) -> None:
        self.waiting.remove(event.job_id)
        key = self.job_index.key_of(event.job_id)
        if isinstance(key, CallbackKey):
            self.running_state(key)

    def on_finished(self, event: JobFinished) -> None:
        """Take a job's final event."""
        self.waiting.remove(event.job_id)
        if self.job_index.is_offered(event.job_id):
            return
        key = self.job_index.key_of(event.job_id)
        if event.revoked:
            self._let_go(key, event, f"it is this executor's no more: {event.detail}")
            return
        if key is None and event.type is WorkloadType.CALLBACK:
            # Of a scheduler that died: Airflow adopts no callbacks, so no other executor will tell it.
            key = callback_key(event.job_id)
        if key is None:
            # Of a scheduler that died: this one may be asked to adopt it yet.
            self.job_index.keep_unclaimed(event, self.now())
            return
        if event.told and not is_final(event.told):
            self._let_go(key, event, f"its task has told Airflow that it is {event.told}, and goes on as another job")
        elif event.outcome is Outcome.SUCCESS and event.type is WorkloadType.TASK and not event.told:
            self.finish(key, event.job_id, Outcome.FAILED, WITHOUT_A_WORD)
        else:
            self.finish(key, event.job_id, event.outcome, event.detail)

    def finish(self, key: WorkloadKey, job_id: JobId, outcome: Outcome, detail: str) -> None:
        """Put the end of the current job of ``key`` into Airflow's event buffer."""
        self.waiting.remove(job_id)
        self.job_index.remove_key(key)
        if outcome is Outcome.SUCCESS:
            self.success(key, info=detail or None)
        else:
            self.fail(key, info=detail or outcome.value)
        if outcome is Outcome.LOST:
            self.log_task_event(event="edge job lost", extra=detail, ti_key=key)
        if (offered := self.event_buffer.get(key)) is not None:
            self.job_index.add_offer(Offer(key=key, job_id=job_id, event=offered, offered_at=self.now()))
        else:
            self.settle_offer(job_id)

    def _let_go(self, key: WorkloadKey | None, event: JobFinished, why: str) -> None:
        """Let go of a job of which Airflow knows from others all that concerns it."""
        if key is not None:
            extra = {"action": "job_let_go", "job_id": event.job_id}
            log.info("job %s is let go: %s", event.job_id, why, extra=extra)
            self.job_index.remove_key(key)
            self.running.discard(key)
        self.settle_offer(event.job_id)

    def _on_unknown(self, event: UnknownJobs) -> None:
        detail = FORGOTTEN if event.forgotten else NEVER_ARRIVED
        for job_id in event.job_ids:
            key = self.job_index.key_of(job_id)
            if key is None:
                continue
            log.warning("job %s has failed: %s", job_id, detail, extra={"action": "job_unknown", "job_id": job_id})
            self.finish(key, job_id, Outcome.LOST, detail)

    # ------------------------------------------------------------ what becomes of the events

    def _follow_up_offers(self) -> None:
        """Settle the final events that Airflow has handled and offer those again that it passed over."""
        passed_over = self.pop_passed_over()
        now = self.now()
        for offer in self.job_index.offers():
            if offer.due_at is not None:
                if offer.due_at <= now:
                    offer.due_at = None
                    self.event_buffer.setdefault(offer.key, offer.event)
            elif offer.key in self.event_buffer:
                continue
            elif not is_task_key(offer.key) or passed_over.get(offer.key) != offer.event:
                self.settle_offer(offer.job_id)
            elif not offer.plan_reoffer(now):
                log.warning(
                    "Airflow does not take the final event of a job: its task instance is gone",
                    extra={"action": "event_not_taken", "job_id": offer.job_id},
                )
                self.settle_offer(offer.job_id)

    def settle_offer(self, job_id: JobId) -> None:
        """Have the bridge forget a job: Airflow knows its end, or wants none."""
        client, _ = self._started()
        self.job_index.remove_offer(job_id)
        client.acknowledge(job_id)

    def _acknowledge_unclaimed(self) -> None:
        """Acknowledge final events of jobs that were not adopted: their tasks reported their own end."""
        client, settings = self._started()
        for job_id in self.job_index.expire_unclaimed(self.now() - settings.unclaimed_for_s):
            client.acknowledge(job_id)

    # ------------------------------------------------------------ what Airflow does not want any more

    def _cancel_abandoned(self) -> None:
        """Stop the jobs that the scheduler has given up by taking them from ``running`` itself."""
        client, _ = self._started()
        for key in self.job_index.keys() - self.running:
            job_id = self.job_index.remove_key(key)
            if job_id is not None:
                log.warning(
                    "Airflow has given up a job: cancelling it", extra={"action": "job_abandoned", "job_id": job_id}
                )
                self.waiting.remove(job_id)
                client.cancel(job_id)

    def _look_after_waiting(self) -> None:
        """Ask Airflow now and then whether it still waits for what has not started."""
        waiting = self.waiting.due(self.now())
        if not waiting:
            return
        try:
            wanted = wanted_jobs(waiting)
        except AirflowUnanswering as error:
            log.warning(
                "Airflow's database does not say which jobs it waits for, it is asked again later: %s",
                error,
                extra={"action": "wanted_unknown", "jobs": len(waiting)},
            )
            return
        for job_id in waiting:
            with isolated(partial(self.on_fault, job_id)):
                if job_id not in wanted:
                    self._withdraw(job_id)
                elif wanted[job_id] is WorkloadType.CALLBACK:
                    self._look_after_callback(job_id)

    def _withdraw(self, job_id: JobId) -> None:
        """End a job that has not started and of which Airflow knows no more; the bridge says when it is done."""
        client, _ = self._started()
        log.info(
            "Airflow waits no more for job %s (its task was marked, cleared or deleted): it is taken back",
            job_id,
            extra={"action": "job_withdrawn", "job_id": job_id},
        )
        self.waiting.remove(job_id)
        client.withdraw(job_id)

    def _look_after_callback(self, job_id: JobId) -> None:
        """Fail a callback that no worker takes: nobody else looks after those, as Airflow does after tasks."""
        client, settings = self._started()
        key = callback_key(job_id)
        if self.job_index.key_of(job_id) is None:
            # Of a scheduler that died.
            self.job_index.set_current(key, job_id)
            self.running.add(key)
        if self.waiting.waited_s(job_id, self.now()) < settings.queued_timeout_s:
            return
        queue = self.waiting.queue_of(job_id)
        where = f"queue {queue!r}" if queue else "its queue"
        why = (
            f"no worker took the callback from {where} within {settings.queued_timeout_s:g} s "
            "([scheduler] task_queued_timeout): start a worker that serves the queue, "
            "or have callbacks go to another with [edge_mqtt] callback_queue"
        )
        log.error("callback %s has failed: %s", job_id, why, extra={"action": "callback_unserved", "job_id": job_id})
        client.cancel(job_id)
        self.finish(key, job_id, Outcome.FAILED, why)
