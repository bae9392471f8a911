"""Where every message of the bridge leaves, and where the dispatcher's effects are performed."""

from __future__ import annotations

import logging
import time

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks
from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned, Effect, Moved, ToAdmin, ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.job_log import JobLog
from edge_mqtt.broker_bridge.logs.receiver import LogReceiver
from edge_mqtt.broker_bridge.logs.segment_allocator import SegmentAllocator
from edge_mqtt.broker_bridge.logs.store import LogPathRefused
from edge_mqtt.broker_bridge.protocol.errors import CannotBeSent
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogPosition, Message, PresenceAck, Welcome
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.certs.identity import Identity, Role

log = logging.getLogger(__name__)


class Outbound:
    """Sends, and logs what concerns a job. Belongs to one event loop."""

    def __init__(
        self,
        topics: Topics,
        channel: MessageChannel,
        *,
        job_log: JobLog,
        receiver: LogReceiver,
        allocator: SegmentAllocator,
        tasks: BackgroundTasks,
    ) -> None:
        self._topics = topics
        self._channel = channel
        self._job_log = job_log
        self._receiver = receiver
        self._allocator = allocator
        self._tasks = tasks

    def send(self, topic: str, message: Message) -> None:
        """Send a message; one that cannot be sent is logged and dropped."""
        try:
            self._channel.send(topic, message)
        except CannotBeSent as error:
            log.error(  # noqa: TRY400  a traceback says nothing more
                "message not sent: %s", error, extra={"action": "message_not_sent", "topic": topic}
            )

    def perform(self, effect: Effect) -> None:
        """Do what the dispatcher has decided, now that it is committed.

        :raises CannotBeSent: an assignment is none that can be sent.
        """
        match effect:
            case ToWorker(worker=worker, message=Welcome() as welcome):
                self._tasks.start("welcome", self._send_welcome(worker, welcome))
            case ToWorker(worker=worker, message=PresenceAck() as ack):
                self.send(self._topics.control(worker), ack.model_copy(update={"sent_at": time.time()}))
            case ToWorker():
                self.send(self._topics.control(effect.worker), effect.message)
            case Assigned():
                self._channel.send(self._topics.assignment(effect.queue, effect.worker), effect.message)
                self._job_log.log_assignment(effect)
            case ToExecutor():
                self.send(self._topics.events(effect.executor), effect.message)
                self._job_log.log_event(effect.message)
            case ToAdmin():
                self.send(self._topics.admin_response(Identity(Role.EXECUTOR, effect.executor)), effect.message)
            case Moved(job=job):
                if job.lacks_notice:
                    self._receiver.write_notice(job.id)
                self._job_log.log_move(job)

    async def _send_welcome(self, worker: WorkerName, welcome: Welcome) -> None:
        """Complete the welcome with how much of each log is here, and the time."""
        logs = [
            LogPosition(job_id=position.job_id, offset=await self._count_stored(position.job_id))
            for position in welcome.logs
        ]
        completed = welcome.model_copy(update={"logs": tuple(logs), "sent_at": time.time()})
        self.send(self._topics.control(worker), completed)

    async def _count_stored(self, job_id: JobId) -> int:
        try:
            return await self._allocator.count_stored(job_id)
        except (OSError, LogPathRefused, LedgerError) as error:
            # From the beginning, then: what is here is recognised. Without a welcome the worker could not go on.
            log.warning(
                "a log's size is not known: %s", error, extra={"action": "log_size_unknown", "job_id": job_id}
            )
            return 0
