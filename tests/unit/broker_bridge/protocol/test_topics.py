"""Names and queues of any spelling make legal topics and come back."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.protocol.errors import InvalidTopic
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import MESSAGE_OF_KIND
from edge_mqtt.broker_bridge.protocol.qos import WITHOUT_PUBACK, qos_of
from edge_mqtt.broker_bridge.protocol.topics import Topics, escape, matches, sender_of, unescape
from edge_mqtt.certs.identity import Identity, InvalidName, Role, check_name

TOPICS = Topics()


@pytest.mark.parametrize("queue", ["default", "a/b", "#", "+", "$SYS", "press 1", "v1.2", "größe", "%2F", "a\x00b"])
def test_a_queue_of_any_spelling_round_trips(queue: str) -> None:
    topic = TOPICS.assignment(queue, WorkerName("w"))
    assert not set("#+$. ") & set(topic)
    assert TOPICS.parse(topic) == ("jobs", queue, "to", "w")
    assert TOPICS.parse(TOPICS.submit(queue, ExecutorName("e"))) == ("jobs", queue, "from", "e")


def test_all_topics_of_a_worker_tell_that_it_is_the_sender() -> None:
    worker = WorkerName("press.1")
    topics = [
        TOPICS.acks(worker),
        TOPICS.results(worker),
        TOPICS.presence(worker),
        TOPICS.rpc_request(worker),
        TOPICS.log(worker, JobId("one")),
        TOPICS.log(worker, JobId("two")),
    ]
    assert {sender_of(topic) for topic in topics} == {"worker:press.1"}


def test_executors_operators_and_workers_of_one_name_are_senders_of_their_own() -> None:
    executor, operator = Identity(Role.EXECUTOR, "o"), Identity(Role.OPERATOR, "o")
    submits = [TOPICS.submit(queue, ExecutorName("o")) for queue in ("q", "to", "from/o")]
    topics = [*submits, TOPICS.admin_request(executor), TOPICS.admin_request(operator)]
    assert [sender_of(topic) for topic in topics] == [*4 * ["executor:o"], "operator:o"]
    assert sender_of(TOPICS.presence(WorkerName("o"))) == "worker:o"


def test_what_the_bridge_says_has_the_bridge_as_its_sender() -> None:
    worker, executor = WorkerName("w"), Identity(Role.EXECUTOR, "e")
    topics = [
        TOPICS.assignment("q", worker),
        TOPICS.control(worker),
        TOPICS.rpc_response(worker),
        TOPICS.events(ExecutorName("e")),
        TOPICS.admin_response(executor),
    ]
    assert {sender_of(topic) for topic in topics} == {"bridge"}


def test_an_empty_segment_is_refused() -> None:
    with pytest.raises(InvalidTopic, match="cannot be empty"):
        escape("")


@pytest.mark.parametrize("topic", ["edge/v2/jobs/a", "other/v1/jobs/a", "edge/v1/", "edge", ""])
def test_a_topic_of_somebody_else_is_refused(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        TOPICS.parse(topic)


def test_the_dispatcher_hears_everything_that_is_said_to_it_and_nothing_that_it_says() -> None:
    worker, job = WorkerName("w"), JobId("j")
    operator = Identity(Role.OPERATOR, "o")
    said_to_it = [
        TOPICS.submit("q", ExecutorName("e")),
        TOPICS.acks(worker),
        TOPICS.results(worker),
        TOPICS.log(worker, job),
        TOPICS.presence(worker),
        TOPICS.rpc_request(worker),
        TOPICS.admin_request(operator),
    ]
    says = [
        TOPICS.assignment("q", worker),
        TOPICS.control(worker),
        TOPICS.events(ExecutorName("e")),
        TOPICS.rpc_response(worker),
        TOPICS.admin_response(operator),
    ]
    filters = TOPICS.for_bridge()
    assert all(any(matches(f, topic) for f in filters) for topic in said_to_it)
    assert not any(matches(f, topic) for f in filters for topic in says)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/#", "a/b/c", True),
        ("+/b", "a/c", False),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("a/#", "a/$SYS", True),
    ],
)
def test_wildcards_match_as_mqtt_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


def test_the_assignment_filter_takes_every_queue_of_one_worker_only() -> None:
    mine = TOPICS.assignments(WorkerName("w"))
    assert matches(mine, TOPICS.assignment("a/b", WorkerName("w")))
    assert not matches(mine, TOPICS.assignment("a/b", WorkerName("v")))


def test_unescape_is_the_inverse_of_escape() -> None:
    assert unescape(escape("a/b%.#")) == "a/b%.#"


def test_what_is_repeated_until_it_is_answered_goes_with_qos_0_like_its_answer_and_all_else_with_qos_1() -> None:
    assert {qos_of(kind) for kind in ("submit", "assign", "finished", "log_chunk", "api_request")} == {0}
    assert {qos_of(kind) for kind in ("job_accepted", "result_ack", "log_ack", "api_response")} == {0}
    assert {qos_of(kind) for kind in ("presence", "cancel", "assignment_rejected", "job_finished")} == {1}


def test_every_kind_that_has_no_puback_is_one_of_ours() -> None:
    assert set(MESSAGE_OF_KIND) >= WITHOUT_PUBACK


def test_an_identity_round_trips_through_client_id_and_urn() -> None:
    identity = Identity(Role.WORKER, "lab-3")
    assert Identity.from_client_id(identity.client_id) == identity
    assert Identity.from_urn(identity.urn) == identity
    assert str(identity) == "worker:lab-3"


@pytest.mark.parametrize(
    "client_id", ["", "worker", "worker:", "boss:a", "worker:a/b", "worker:-a", "worker:" + "a" * 64]
)
def test_a_client_id_of_another_form_is_refused(client_id: str) -> None:
    with pytest.raises(InvalidName, match="<role>:<name>"):
        Identity.from_client_id(client_id)


def test_a_urn_of_somebody_else_is_refused() -> None:
    with pytest.raises(InvalidName, match="urn:edge-mqtt:"):
        Identity.from_urn("urn:uuid:1")


def test_a_bad_name_is_explained() -> None:
    with pytest.raises(InvalidName, match="1 to 63 letters"):
        check_name("a b")
