"""What a connected client may do, what happens when it does something else, and that others never notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.broker.packets import MAX_FILTERS, MAX_PACKET_BYTES, build_publish
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from tests.support.scenario_broker import (
    EXECUTOR_NAME,
    ROGUE,
    ROGUE_NAME,
    TOPICS,
    VICTIM_NAME,
    RawClient,
    Recorder,
    Site,
    connect_packet,
    packet,
    subscribe_packet,
    text,
)

CONTROL = TOPICS.control(ROGUE_NAME)
RESULTS = TOPICS.results(ROGUE_NAME)
PRESENCE = TOPICS.presence(ROGUE_NAME)


@pytest.fixture
def rogue(site: Site) -> Iterator[RawClient]:
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id, will_topic=PRESENCE) == 0
        yield client


def expect_working_session(site: Site, client: RawClient) -> None:
    """Publish one and receive one message on the client's connection."""
    assert client.subscribe(CONTROL) == [1]
    client.send(build_publish(RESULTS, b"works", packet_id=7, retain=False))
    assert client.packet() == packet(4, 0, (7).to_bytes(2))
    site.heard.wait(lambda: (RESULTS, b"works") in site.heard.packets)
    assert site.centre.publish(CONTROL, b"works too", qos=1)
    assert client.message() == (CONTROL, b"works too", 0b0010)


def payloads_until_the_end(client: RawClient) -> list[bytes]:
    """Receive and acknowledge until the connection is closed."""
    got = []
    while True:
        try:
            got.append(client.message()[1])
        except ConnectionClosed:
            return got


def retained(site: Site) -> list[tuple[str, bytes]]:
    """Return what a newcomer gets."""
    late, end = Recorder(), ("the/end", b"")
    newcomer = InProcessTransport(site.broker.router, ["#"])
    newcomer.start(late)
    assert site.centre.publish(*end, qos=0)
    late.wait(lambda: end in late.packets)
    newcomer.stop()
    return late.packets[: late.packets.index(end)]


@pytest.mark.parametrize(
    "topic",
    [
        TOPICS.results(VICTIM_NAME),
        TOPICS.acks(VICTIM_NAME),
        TOPICS.presence(VICTIM_NAME),
        TOPICS.log(VICTIM_NAME, JobId("job")),
        TOPICS.rpc_request(VICTIM_NAME),
        TOPICS.control(VICTIM_NAME),
        TOPICS.assignment("default", VICTIM_NAME),
        TOPICS.submit("default", EXECUTOR_NAME),
        "elsewhere",
    ],
)
def test_publishing_elsewhere_is_dropped_and_the_session_goes_on(site: Site, rogue: RawClient, topic: str) -> None:
    rogue.send(build_publish(topic, b"forged", packet_id=9, retain=True))
    assert rogue.packet() == packet(4, 0, (9).to_bytes(2))
    site.expect_one_warning("worker:rogue may not publish to", topic)
    site.expect_undisturbed_victim()
    expect_working_session(site, rogue)
    assert all(payload != b"forged" for _, payload in site.heard.packets + site.victim_heard.packets)
    assert site.broker.denied == 1
    assert retained(site) == []


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+",
        "edge/#",
        TOPICS.control(VICTIM_NAME),
        TOPICS.assignments(VICTIM_NAME),
        "edge/v1/jobs/+/to/+",
        "edge/v1/workers/+",
        "a/#/b",
    ],
)
def test_subscribing_elsewhere_is_refused_and_the_session_goes_on(
    site: Site, rogue: RawClient, topic_filter: str
) -> None:
    assert rogue.subscribe(topic_filter) == [0x80]
    if topic_filter != "a/#/b":
        site.expect_one_warning("worker:rogue may not subscribe to", topic_filter)
    site.expect_undisturbed_victim()
    expect_working_session(site, rogue)


def test_a_refused_filter_does_not_spoil_the_others_of_its_packet(rogue: RawClient) -> None:
    assert rogue.subscribe(CONTROL, "#", TOPICS.assignments(ROGUE_NAME)) == [1, 0x80, 1]


def test_only_presence_is_retained(site: Site, rogue: RawClient) -> None:
    rogue.send(build_publish(RESULTS, b"sticky", packet_id=None, retain=True))
    site.heard.wait(lambda: (RESULTS, b"sticky") in site.heard.packets)
    site.expect_one_warning("worker:rogue may not retain", RESULTS)
    rogue.send(build_publish(PRESENCE, b"here", packet_id=None, retain=True))
    site.heard.wait(lambda: (PRESENCE, b"here") in site.heard.packets)
    assert retained(site) == [(PRESENCE, b"here")]


def test_retained_messages_go_only_to_those_who_subscribe_to_them(site: Site) -> None:
    answers = TOPICS.rpc_response(ROGUE_NAME)
    assert site.centre.publish(CONTROL, b"here", qos=0, retain=True)
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id) == 0
        assert client.subscribe(CONTROL) == [1]
        assert client.message() == (CONTROL, b"here", 0b0001)
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id) == 0
        # A connection of its own, with other subscriptions: nothing comes with it.
        assert client.subscribe(answers) == [1]
        assert site.centre.publish(answers, b"first", qos=0)
        assert client.message()[:2] == (answers, b"first")


def test_an_unsubscribed_client_receives_nothing_more(site: Site, rogue: RawClient) -> None:
    own = TOPICS.rpc_response(ROGUE_NAME)
    assert rogue.subscribe(CONTROL, own) == [1, 1]
    rogue.send(packet(10, 2, (2).to_bytes(2) + text(CONTROL)))
    assert rogue.packet() == packet(11, 0, (2).to_bytes(2))
    assert site.centre.publish(CONTROL, b"lost", qos=1)
    assert site.centre.publish(own, b"kept", qos=0)
    assert rogue.message()[:2] == (own, b"kept")


def test_a_will_is_published_when_a_client_drops_and_not_when_it_says_goodbye(site: Site) -> None:
    for goodbye in (True, False):
        with site.raw(ROGUE) as client:
            assert client.connect(ROGUE.client_id, will_topic=PRESENCE) == 0
            client.send(build_publish(RESULTS, b"last words", packet_id=None, retain=False))
            if goodbye:
                client.send(packet(14, 0, b""))
            client.drop()
        site.heard.wait(lambda: site.heard.packets[-1:] in ([(RESULTS, b"last words")], [(PRESENCE, b"the will")]))
        if goodbye:
            with site.raw(ROGUE) as client:
                assert client.connect(ROGUE.client_id) == 0
                client.send(packet(14, 0, b""))
                with pytest.raises(ConnectionClosed):
                    client.packet()
            assert site.heard.packets == [(RESULTS, b"last words")]
    site.heard.wait_packets(3)
    assert site.heard.packets[1:] == [(RESULTS, b"last words"), (PRESENCE, b"the will")]


def test_connect_publish_and_goodbye_in_one_message_lose_nothing(site: Site) -> None:
    published = b"".join(build_publish(RESULTS, b"%d" % i, packet_id=None, retain=False) for i in range(30))
    with site.raw(ROGUE) as client:
        client.send(connect_packet(ROGUE.client_id, will_topic=PRESENCE) + published + packet(14, 0, b""))
        assert client.packet() == bytes((0x20, 2, 0, 0))
        with pytest.raises(ConnectionClosed):
            client.packet()
    assert site.heard.wait_packets(30) == [(RESULTS, b"%d" % i) for i in range(30)]
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id) == 0
    assert len(site.heard.packets) == 30


def test_a_silent_client_is_dropped_after_one_and_a_half_keep_alives(site: Site) -> None:
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id, keep_alive_s=1, will_topic=PRESENCE) == 0
        client.send(packet(12, 0, b""))
        assert client.packet() == packet(13, 0, b"")
        with pytest.raises(ConnectionClosed):
            client.packet()
    assert site.heard.wait_packets(1) == [(PRESENCE, b"the will")]
    site.expect_one_warning("worker:rogue dropped", "silent for 1.5 s")
    site.expect_undisturbed_victim()


OVERSIZED = build_publish(RESULTS, bytes(MAX_PACKET_BYTES), packet_id=None, retain=False)
MISBEHAVIOUR: dict[str, tuple[Callable[[RawClient], None], str]] = {
    "oversized packet": (lambda client: client.send(OVERSIZED), "over the limit of 262144 bytes"),
    "oversized packet in pieces": (lambda client: client.send(OVERSIZED[:100]), "over the limit of 262144 bytes"),
    "oversized websocket message": (lambda client: client.send(bytes(600 * 1024)), "dropped"),
    "garbage": (lambda client: client.send(b"\xff" * 64), "remaining length"),
    "text": (lambda client: client.websocket.send("hello"), "text message"),
    "second connect": (lambda client: client.send(connect_packet(ROGUE.client_id)), "unexpected CONNECT"),
    "qos 2": (lambda client: client.send(packet(3, 4, text(RESULTS) + b"\0\1")), "QoS 2"),
    "wildcard in topic": (lambda client: client.send(packet(3, 0, text("a/+"))), "wildcards"),
    "dollar topic": (lambda client: client.send(packet(3, 0, text("$SYS/x"))), "begins with $"),
    "topic longer than packet": (lambda client: client.send(packet(3, 0, b"\xff\xffab")), "longer than its packet"),
    "no utf-8": (lambda client: client.send(packet(3, 0, b"\x00\x02\xff\xfe")), "not UTF-8"),
    "empty subscribe": (lambda client: client.send(packet(8, 2, b"\0\1")), "no topic filter"),
    "too many filters": (
        lambda client: client.send(subscribe_packet(*["a"] * (MAX_FILTERS + 1))),
        "more than 200 topic filters",
    ),
    "reserved packet": (lambda client: client.send(packet(15, 0, b"")), "type 15"),
    "puback of a server": (lambda client: client.send(packet(9, 0, b"\0\1\0")), "type 9"),
    "wrong flags": (lambda client: client.send(packet(8, 0, b"\0\1" + text("a") + b"\0")), "unexpected SUBSCRIBE"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_client_that_breaks_the_protocol_is_dropped_with_one_line(site: Site, rogue: RawClient, name: str) -> None:
    misbehave, reason = MISBEHAVIOUR[name]
    with pytest.raises(ConnectionClosed):  # noqa: PT012 - sending may be the one to notice
        misbehave(rogue)
        rogue.packet()
    assert site.heard.wait_packets(1) == [(PRESENCE, b"the will")]
    site.expect_one_warning("worker:rogue dropped", reason)
    site.expect_undisturbed_victim()


@pytest.mark.parametrize("limits", [Limits(backlog_bytes=1024 * 1024)])
@pytest.mark.parametrize("timing", [Timing(stalled_s=0.2)])
def test_a_client_that_does_not_read_is_dropped_and_others_get_everything(site: Site, rogue: RawClient) -> None:
    assert rogue.subscribe(CONTROL) == [1]
    rogue.websocket.recv_events_thread  # noqa: B018 - it reads up to its own limit and then no more
    sent = 0
    while not site.warnings():
        assert site.centre.publish(CONTROL, bytes(100_000), qos=1)
        sent += 1
        site.expect_undisturbed_victim()
        assert sent < 2000
    assert site.heard.wait_packets(sent + 1)[-1] == (PRESENCE, b"the will")
    behind, dropped = site.warnings()
    assert "worker:rogue gets nothing more" in behind
    assert "worker:rogue dropped: it is 1 MiB behind with reading and took nothing for 0.2 s" in dropped
    site.expect_undisturbed_victim()


@pytest.mark.parametrize("limits", [Limits(backlog_bytes=1024 * 1024)])
def test_a_slow_client_gets_what_it_was_about_to_get_before_it_is_told_to_come_back(
    site: Site, rogue: RawClient
) -> None:
    assert rogue.subscribe(CONTROL) == [1]
    payloads = [bytes((number,)) * 100_000 for number in range(60)]
    for payload in payloads:
        assert site.centre.publish(CONTROL, payload, qos=1)
    got = payloads_until_the_end(rogue)
    assert 10 <= len(got) < 60
    assert got == payloads[: len(got)]
    behind, dropped = site.warnings()
    assert "gets nothing more" in behind
    assert "caught up" in dropped
    site.expect_undisturbed_victim()


@pytest.mark.parametrize("limits", [Limits(unacknowledged=100)])
@pytest.mark.parametrize("timing", [Timing(stalled_s=0.2)])
def test_a_client_that_acknowledges_nothing_gets_no_more_than_there_are_packet_ids(
    site: Site, rogue: RawClient
) -> None:
    assert rogue.subscribe(CONTROL) == [1]
    for number in range(200):
        assert site.centre.publish(CONTROL, b"%d" % number, qos=1)
    received = [rogue.packet()[-2:] for _ in range(100)]
    assert received[-1] == b"99"
    with pytest.raises(ConnectionClosed):
        rogue.packet()
    assert "not acknowledged 100 messages" in site.warnings()[-1]
    site.expect_undisturbed_victim()


def test_a_flood_is_worked_off_in_order(site: Site, rogue: RawClient) -> None:
    rogue.send(subscribe_packet(CONTROL))
    rogue.packet()
    batch = [build_publish(RESULTS, b"%d" % i, packet_id=None, retain=False) for i in range(1000)]
    for start in range(0, 1000, 100):
        rogue.send(b"".join(batch[start : start + 100]))
    assert site.heard.wait_packets(1000) == [(RESULTS, b"%d" % i) for i in range(1000)]
    site.expect_undisturbed_victim()
