"""Operators who follow a run are told when the bridge cannot see its end."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks
from edge_mqtt.broker_bridge.execution_api.client import ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.dag_runs import DagRuns
from edge_mqtt.broker_bridge.message_router import MessageRouter
from edge_mqtt.broker_bridge.outbound import Outbound
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, Message, TailReply, TailRequest
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role

OPERATOR = Identity(Role.OPERATOR, "ann")


class Key:
    def __init__(self, token: str | None) -> None:
        self._token = token

    def issue_token(self, task_instance_id: str) -> str | None:
        return self._token


class Tail:
    async def answer(self, request: TailRequest) -> TailReply:
        return TailReply(request_id=request.request_id, body=b"a line")


class Channel:
    def __init__(self) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()

    def send(self, topic: str, message: Message) -> bool:
        assert topic == Topics().admin_response(OPERATOR)
        self.sent.put_nowait(message)
        return True


class BrokenTail:
    async def answer(self, request: TailRequest) -> TailReply:
        raise RuntimeError("a bug of ours")


def test_an_operator_is_told_that_the_bridge_fails_at_a_request(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        channel, nothing = Channel(), cast("Any", None)
        tasks = BackgroundTasks()
        outbound = Outbound(
            Topics(), cast("Any", channel), job_log=nothing, receiver=nothing, allocator=nothing, tasks=tasks
        )
        router = MessageRouter(
            Topics(),
            cast("Any", channel),
            outbound=outbound,
            dispatch=nothing,
            relay=nothing,
            receiver=nothing,
            tail=cast("Any", BrokenTail()),
            tasks=tasks,
        )
        router.received(
            Topics().admin_request(OPERATOR), TailRequest(request_id="r", selector=LogSelector(dag_id="d"))
        )
        reply = await asyncio.wait_for(channel.sent.get(), 10)
        assert isinstance(reply, TailReply)
        assert reply.ended
        assert reply.error.startswith("the bridge failed: RuntimeError at test_message_router.py:")

    asyncio.run(test())
    assert [vars(record)["action"] for record in caplog.records] == ["tail_failed"]


@pytest.mark.parametrize(
    ("key", "wait_s", "dag_id", "noted"),
    [
        (None, 30.0, "etl", True),
        (None, 0.0, "etl", False),
        (None, 30.0, None, False),
        ("a token", 30.0, "etl", False),
    ],
)
def test_who_follows_a_run_is_told_that_its_end_is_not_seen(
    key: str | None, wait_s: float, dag_id: str | None, noted: bool
) -> None:
    async def test() -> None:
        api = ExecutionApiClient("http://127.0.0.1:9/execution/")
        note = DagRuns(api, Key(key), api_version="2026-06-30").note
        channel, nothing = Channel(), cast("Any", None)
        tasks = BackgroundTasks()
        outbound = Outbound(
            Topics(), cast("Any", channel), job_log=nothing, receiver=nothing, allocator=nothing, tasks=tasks
        )
        router = MessageRouter(
            Topics(),
            cast("Any", channel),
            outbound=outbound,
            dispatch=nothing,
            relay=nothing,
            receiver=nothing,
            tail=cast("Any", Tail()),
            tasks=tasks,
            note=note,
        )
        request = TailRequest(request_id="r", selector=LogSelector(dag_id=dag_id), wait_s=wait_s)
        router.received(Topics().admin_request(OPERATOR), request)
        reply = await asyncio.wait_for(channel.sent.get(), 10)
        assert isinstance(reply, TailReply)
        assert reply.body == b"a line"
        assert ("jwt_secret" in reply.note) is noted
        await tasks.stop()
        await api.aclose()

    asyncio.run(test())
