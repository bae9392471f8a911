from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.protocol.access import CLIENT_ROLES, TABLE, Action, allowed
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role

T = Topics("site-a")
WORKER, OTHER = Identity(Role.WORKER, "lab.3"), Identity(Role.WORKER, "lab")
EXECUTOR, RIVAL = Identity(Role.EXECUTOR, "main"), Identity(Role.EXECUTOR, "main.2")
OPERATOR = Identity(Role.OPERATOR, "ann")
BRIDGE = Identity(Role.BRIDGE, "bridge")
NAME, OTHER_NAME, JOB = WorkerName(WORKER.name), WorkerName(OTHER.name), JobId("0199")
PUBLISH, RETAIN, SUBSCRIBE = Action.PUBLISH, Action.RETAIN, Action.SUBSCRIBE

#: Every topic and filter that the builder makes, by who may do what with it. Nobody else may do anything.
GRANTED = {
    T.submit("q/1", ExecutorName(EXECUTOR.name)): {(EXECUTOR, PUBLISH)},
    T.submit("q/1", ExecutorName(RIVAL.name)): {(RIVAL, PUBLISH)},
    T.submit(f"from/{EXECUTOR.name}", ExecutorName(RIVAL.name)): {(RIVAL, PUBLISH)},
    T.assignments(NAME): {(WORKER, SUBSCRIBE)},
    T.assignment("q/1", NAME): {(WORKER, SUBSCRIBE)},
    T.acks(NAME): {(WORKER, PUBLISH)},
    T.results(NAME): {(WORKER, PUBLISH)},
    T.log(NAME, JOB): {(WORKER, PUBLISH)},
    T.presence(NAME): {(WORKER, PUBLISH), (WORKER, RETAIN)},
    T.control(NAME): {(WORKER, SUBSCRIBE)},
    T.rpc_request(NAME): {(WORKER, PUBLISH)},
    T.rpc_response(NAME): {(WORKER, SUBSCRIBE)},
    T.events(ExecutorName(EXECUTOR.name)): {(EXECUTOR, SUBSCRIBE)},
    T.admin_request(EXECUTOR): {(EXECUTOR, PUBLISH)},
    T.admin_response(EXECUTOR): {(EXECUTOR, SUBSCRIBE)},
    T.admin_request(OPERATOR): {(OPERATOR, PUBLISH)},
    T.admin_response(OPERATOR): {(OPERATOR, SUBSCRIBE)},
}
EVERYBODY = (WORKER, OTHER, EXECUTOR, RIVAL, OPERATOR, BRIDGE)


@pytest.mark.parametrize("topic", GRANTED)
def test_each_topic_is_open_to_exactly_those_who_need_it(topic: str) -> None:
    open_to = {(who, action) for who in EVERYBODY for action in Action if allowed(who, action, topic, T)}
    assert open_to == GRANTED[topic]


@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize(
    "topic",
    [
        "#",
        "+",
        "+/#",
        "site-a/#",
        "site-a/v1/#",
        "site-a/v1/+/lab%2E3",
        "site-a/v1/jobs/+/+",
        "site-a/v1/jobs/+/to/+",
        "site-a/v1/jobs/+/from/+",
        "site-a/v1/jobs/q/from/nobody",
        "site-a/v1/jobs/q/main",
        "site-a/v1/workers/+",
        "site-a/v1/logs/+/+",
        "site-a/v1/logs/lab/+",
        "site-a/v1/workers/#",
        "",
        "site-a",
        "edge/v1/acks/lab%2E3",
        "site-a/v2/acks/lab%2E3",
        "$SYS/broker",
    ],
)
def test_wide_filters_and_foreign_topics_are_denied(who: Identity, action: Action, topic: str) -> None:
    assert not allowed(who, action, topic, T)


def test_a_worker_may_not_publish_with_wildcards_that_it_is_granted() -> None:
    assert allowed(WORKER, PUBLISH, T.log(NAME, JOB), T)
    assert not allowed(WORKER, PUBLISH, "site-a/v1/logs/lab%2E3/+", T)


def test_names_that_contain_each_other_are_kept_apart() -> None:
    assert not allowed(OTHER, PUBLISH, T.results(NAME), T)
    assert not allowed(WORKER, PUBLISH, T.results(OTHER_NAME), T)


def test_the_bridge_is_no_client() -> None:
    assert {Role.WORKER, Role.EXECUTOR, Role.OPERATOR} == CLIENT_ROLES
    assert all(grant.role is not Role.BRIDGE for grant in TABLE)
