"""What comes over the link, handed to the part of the worker that it concerns."""

from __future__ import annotations

import logging
from typing import assert_never

from edge_mqtt.broker_bridge.protocol.messages import (
    ApiResponse,
    Assign,
    Cancel,
    ErrorReply,
    LogAck,
    Message,
    PresenceAck,
    ResultAck,
    Welcome,
)
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.bridge.assignments import Assignments
from edge_mqtt.worker.bridge.presence import PresenceLoop
from edge_mqtt.worker.bridge.results import Results
from edge_mqtt.worker.errors import SpoolError
from edge_mqtt.worker.link import Connected, Disconnected, Link, LinkEvent, Received, Refused
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.shutdown import Shutdown

log = logging.getLogger(__name__)


class MessageRouter:
    """Takes the link's events in order, one at a time.

    :param bridge_url: for people.
    """

    def __init__(
        self,
        link: Link,
        *,
        api: ExecutionApiServer,
        assignments: Assignments,
        logs: LogShipper,
        presence: PresenceLoop,
        results: Results,
        shutdown: Shutdown,
        supervisors: Supervisors,
        bridge_url: str,
    ) -> None:
        self._link = link
        self._api = api
        self._assignments = assignments
        self._logs = logs
        self._presence = presence
        self._results = results
        self._shutdown = shutdown
        self._supervisors = supervisors
        self._bridge_url = bridge_url

    async def run(self) -> None:
        """Route events, for ever."""
        while True:
            event = await self._link.events.get()
            await self._route_event(event)

    async def _route_event(self, event: LinkEvent) -> None:
        match event:
            case Connected():
                self._link.ready = False
                log.info("connected to %s", self._bridge_url, extra={"action": "connected"})
                self._presence.introduce_worker()
            case Disconnected(reason):
                self._link.ready = False
                log.warning("connection lost: %s; trying again", reason, extra={"action": "disconnected"})
            case Refused(refusal):
                self._shutdown.record_refusal(refusal)
            case Received(message):
                try:
                    await self._route_message(message)
                except SpoolError as error:
                    # What could not be stored is not acknowledged: the bridge says it again.
                    log.error("%s", error, extra={"action": "spool_failed", "kind": message.kind})  # noqa: TRY400
                except Exception as error:  # noqa: BLE001  an odd message must not end the tasks of all others
                    self._link.fail(message, error)
            case _:
                assert_never(event)

    async def _route_message(self, message: Message) -> None:
        match message:
            case Assign():
                await self._assignments.answer_assignment(message)
            case Cancel():
                await self._assignments.cancel_job(message)
            case ApiResponse():
                self._api.record_response(message)
            case LogAck():
                await self._results.record_log_ack(message)
            case ResultAck():
                await self._results.record_ack(message.job_id, message.fence)
            case PresenceAck():
                self._presence.record_ack(message)
            case Welcome():
                await self._accept_welcome(message)
            case ErrorReply():
                log.warning(
                    "the bridge did not understand a message: %s", message.error, extra={"action": "bridge_error"}
                )
            case _:
                log.debug("%s ignored", message.kind, extra={"action": "message_ignored"})

    async def _accept_welcome(self, welcome: Welcome) -> None:
        """Go on from what the bridge has, and send it what waits."""
        if (welcome.incarnation, welcome.connection) != (self._link.address.incarnation, self._link.connection):
            return
        self._supervisors.kill_grace_s = welcome.kill_grace_s
        for ref in welcome.drop:
            await self._assignments.drop_job(ref)
        for ref in welcome.known_results:
            await self._results.record_ack(ref.job_id, ref.fence)
        self._link.ready = True
        self._logs.resume_logs(welcome.logs)
        self._presence.record_welcome(welcome)
        self._results.resend_results()
        self._api.resend_calls()
