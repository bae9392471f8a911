"""Between an executor and the bridge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_mqtt.broker_bridge.protocol.limits import MAX_ITEMS
from edge_mqtt.broker_bridge.protocol.messages import bounds
from edge_mqtt.broker_bridge.protocol.messages.base import Message
from edge_mqtt.broker_bridge.protocol.messages.jobs import JobSpec, Outcome, WorkloadType

# ---------------------------------------------------------------- executor -> bridge


class Submit(Message):
    """A job to run. Repeated until :class:`JobAccepted`."""

    kind: Literal["submit"] = "submit"
    #: What to run; its queue is the one in the topic.
    job: JobSpec
    #: The workload's bearer token for the Execution API. It stays in the data centre.
    token: bounds.HttpText = Field(repr=False)


class ExecutorHello(Message):
    """An executor (re)connected: send it the final events that it has not acknowledged, and what it has waiting."""

    kind: Literal["executor_hello"] = "executor_hello"


class EventAck(Message):
    """Airflow has the final event of a job."""

    kind: Literal["event_ack"] = "event_ack"
    job_id: bounds.JobId


class CancelJob(Message):
    """Stop a job wherever it is, whoever submitted it. Repeated until :class:`CancelAck`.

    No event follows to the sender. When another executor submitted the job, that one is told its end.
    """

    kind: Literal["cancel_job"] = "cancel_job"
    job_id: bounds.JobId
    #: True: a job that has started, or ended, is left alone, and the sender is told the end of one that has not.
    unless_started: bool = False


class AdoptRequest(Message):
    """An executor takes over the jobs of a dead one, or asks whether the jobs it has are still known."""

    kind: Literal["adopt_request"] = "adopt_request"
    request_id: bounds.RequestId
    #: The jobs in question.
    job_ids: bounds.Items[bounds.JobId]
    #: False: a job that another executor has taken over meanwhile stays with that one.
    take_over: bool = True


# ---------------------------------------------------------------- bridge -> executor


class JobAccepted(Message):
    """The job is in the ledger. Said again of each that has not started when its executor connects."""

    kind: Literal["job_accepted"] = "job_accepted"
    job_id: bounds.JobId


class JobStarted(Message):
    """The job's start is recorded; its user code may run now."""

    kind: Literal["job_started"] = "job_started"
    job_id: bounds.JobId
    worker: bounds.Name


class CancelAck(Message):
    """The job is being stopped, is over, unknown, or to be left alone: its cancellation needs no repetition."""

    kind: Literal["cancel_ack"] = "cancel_ack"
    job_id: bounds.JobId


class JobFinished(Message):
    """The job's final event. Repeated until :class:`EventAck`."""

    kind: Literal["job_finished"] = "job_finished"
    job_id: bounds.JobId
    #: The job's workload.
    type: WorkloadType = WorkloadType.TASK
    #: How it ended.
    outcome: Outcome
    #: One line for people: exit code, signal or why it was lost.
    detail: bounds.Prose = ""
    #: The state that the task told Airflow last, as Airflow calls it; empty when it told none. After one that is not
    #: final (deferred, say) the task goes on as another job: Airflow knows, and is told nothing.
    told: bounds.Name = ""
    #: The worker that had it; empty when none had.
    worker: bounds.Name = ""
    #: An executor took the job back: Airflow knows, and is told nothing.
    revoked: bool = False


#: The state, in an :class:`AdoptReply`, of a job that belongs to another executor than the asker.
TAKEN = "taken"
#: What the executor is told that had a job before.
TAKEN_OVER = "another executor has taken the job over"


class AdoptReply(Message):
    """The jobs that the bridge knows, by state; one that is missing never arrived or was purged."""

    kind: Literal["adopt_reply"] = "adopt_reply"
    request_id: bounds.RequestId
    #: By job id: queued, assigned, running or finished; ``taken`` when it belongs to another executor.
    states: Annotated[dict[bounds.JobId, bounds.Name], Field(max_length=MAX_ITEMS)]
