"""Messages to a bridge, good and odd: valid ones of every kind that fit what it knows, and what becomes of them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView
from edge_mqtt.broker_bridge.protocol.compression import MAGIC, compress
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role

Document = dict[str, Any]

#: Jobs that are spoken of at one time, and after how many messages one of them is left for a new one.
JOBS: Final = 24
JOB_EVERY: Final = 12


@dataclass(frozen=True, slots=True)
class Odd:
    """One packet as a client publishes it."""

    identity: Identity
    topic: str
    payload: bytes


def deep(levels: int) -> Document:
    """Return an object with so many levels."""
    document: Document = {}
    for _ in range(levels):
        document = {"x": document}
    return document


def odd_values(chance: random.Random) -> list[Any]:
    """Return values of which every field has a reason to be afraid."""
    return [
        None,
        True,
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "a\udfffb",
        "\N{REPLACEMENT CHARACTER}",
        "\u202e\n\r\t\x1b[2J",
        "ü漢🙂" * chance.choice([1, 90, 900]),
        "x" * chance.choice([249, 250, 251, 500, 501, 2601, 70_000]),
        "../../etc/passwd",
        "/",
        "%00%2F%ff",
        "1",
        "NaN",
        *(0, -1, 1, 2, 127, 255, 599),
        *(
            sign * 2**bits + more
            for bits in (31, 32, 50, 53, 63, 64, 1024)
            for sign in (1, -1)
            for more in (-1, 0, 1)
        ),
        10**400,
        *(0.5, -0.0, 1e308, 1e-308, float("nan"), float("inf"), -float("inf"), 1e12, 1e13),
        [],
        {},
        [None],
        {"": ""},
        {"\ud800": 1, "a\0": 2},
        deep(chance.choice([60, 98, 99, 100, 101, 255, 256, 300, 600])),
        ["x"] * chance.choice([3, 1000]),
        [{"job_id": "j", "fence": 1, "state": "running"}] * 3,
    ]


def mutated(header: Document, chance: random.Random) -> Document:
    """Return a message with one value in it, however deep, that is another, missing or new."""
    changed = dict(header)
    at: Any = changed
    while True:
        key = chance.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if isinstance(at[key], dict | list) and at[key] and chance.random() < 0.8:
            at[key] = at = copy.copy(at[key])
            continue
        break
    how = chance.random()
    if how < 0.8:
        at[key] = chance.choice(odd_values(chance))
    elif how < 0.9:
        del at[key]
    elif isinstance(at, dict):
        at[str(chance.choice(["", "v", "kind", "body", "job", "\ud800", "x" * 1000]))] = chance.choice(
            odd_values(chance)
        )
    return changed or {"": 1}


class OddMessages:
    """Makes packets, the same for the same seed and the same bridge.

    :param view: what the bridge knows: most messages are about that.
    """

    def __init__(self, chance: random.Random, topics: Topics, view: DispatchView) -> None:
        self._chance = chance
        self._topics = topics
        self._view = view
        self._count = 0

    def __iter__(self) -> Iterator[Odd]:
        while True:
            self._count += 1
            identity, topic, header, body = self._valid()
            how = self._chance.random()
            if how < 0.5:
                for _ in range(self._chance.choice([1, 1, 1, 2, 5])):
                    header = mutated(header, self._chance)
            payload = self._packet(header, body)
            if how > 0.85:
                payload = self._damaged(payload)
            if how > 0.97:
                topic = self._odd_topic(topic)
            yield Odd(identity, topic, payload)

    # ------------------------------------------------------------ what is valid

    def _valid(self) -> tuple[Identity, str, Document, bytes]:
        make: Callable[[], tuple[Identity, str, Document, bytes]] = self._chance.choice(
            [self._of_worker, self._of_worker, self._of_executor, self._of_operator]
        )
        return make()

    def _job(self) -> tuple[str, str, int]:
        """Return a job, mostly one that is known, and a worker and a fence that mostly are its own."""
        job_id = f"j{self._count // JOB_EVERY + self._chance.randrange(JOBS)}"
        job = self._view.get_job(JobId(job_id))
        worker, fence = self._chance.choice(["w1", "w2", "lab.3"]), self._chance.choice([1, 1, 2, 3])
        if job is not None and self._chance.random() < 0.8:
            worker, fence = job.worker or worker, job.fence
        return job_id, worker, fence

    def _of_worker(self) -> tuple[Identity, str, Document, bytes]:
        job_id, name, fence = self._job()
        ref: Document = {"job_id": job_id, "fence": fence}
        choices = [*self._reports(WorkerName(name), ref), *self._calls(WorkerName(name), ref)]
        topic, header, body = self._chance.choice(choices)
        return Identity(Role.WORKER, name), topic, header, body

    def _reports(self, worker: WorkerName, ref: Document) -> list[tuple[str, Document, bytes]]:
        """Return what a worker says of itself and of a job."""
        topics, chance = self._topics, self._chance
        acks = topics.acks(worker)
        rejected = {"kind": "assignment_rejected", **ref, "reason": "no", "permanent": chance.random() < 0.5}
        finished = {"exit_code": chance.choice([0, 1]), "error": "e", "log_size": 9, "signal": 9}
        return [
            (topics.presence(worker), self._presence(worker, ref), b""),
            (acks, {"kind": "assignment_accepted", **ref}, b""),
            (acks, rejected, b""),
            (topics.results(worker), {"kind": "finished", **ref, **finished}, b""),
            (
                topics.log(worker, JobId(ref["job_id"])),
                {"kind": "log_chunk", **ref, "offset": chance.choice([0, 0, 4, 2**50])},
                b"line\n" * chance.randrange(4),
            ),
            (acks, {"kind": "error", "error": "what?"}, b""),
        ]

    def _calls(self, worker: WorkerName, ref: Document) -> list[tuple[str, Document, bytes]]:
        """Return what a job asks the bridge and Airflow."""
        chance, topic = self._chance, self._topics.rpc_request(worker)
        request: Document = {**ref, "request_id": f"r{chance.randrange(50)}"}
        call: Document = {"kind": "api_request", **request}
        task = f"task-instances/{ref['job_id']}"
        run = json.dumps({"hostname": chance.choice(["h", "\ud800", "ü" * 400, 7]), "pid": chance.choice([1, 2**70])})
        any_call: Document = {
            "method": chance.choice(["GET", "POST", "PATCH"]),
            "target": chance.choice(["variables/x", f"{task}/state", "dag-runs/d/r", "xcoms/d/r/t/k?map_index=-1"]),
            "headers": {"content-type": "application/json"},
        }
        return [
            (topic, {"kind": "start_request", **request}, b""),
            (
                topic,
                {**call, "method": "PATCH", "target": f"{task}/run"},
                chance.choice([run.encode(), b"[" * 100_000, run.encode("utf-16"), b""]),
            ),
            (topic, {**call, **any_call}, json.dumps({"state": "success", "conf": {}}).encode()),
        ]

    def _presence(self, name: str, ref: Document) -> Document:
        chance = self._chance
        held = [
            {"job_id": job.id, "fence": job.fence, "state": chance.choice(["accepted", "running", "finished"])}
            for job in self._view.jobs_of(WorkerName(name))
            if chance.random() < 0.98
        ]
        if chance.random() < 0.1:
            held.append({**ref, "state": "running"})
        return {
            "kind": "presence",
            "incarnation": chance.choice(["one"] * 40 + ["two"]),
            "home": chance.choice(["here"] * 20 + ["there"]),
            "connection": chance.choice([1] * 40 + [2]),
            "sequence": chance.choice([0, self._count, self._count]),
            "state": chance.choice(["online"] * 30 + ["draining", "offline"]),
            "queues": ["q", "r/1"],
            "concurrency": chance.randrange(9),
            "jobs": held,
        }

    def _of_executor(self) -> tuple[Identity, str, Document, bytes]:
        job_id, _, _ = self._job()
        chance, topics = self._chance, self._topics
        identity = Identity(Role.EXECUTOR, chance.choice(["ann", "bob"]))
        queue = chance.choice(["q", "q", "r/1"])
        job = {
            "job_id": job_id,
            "type": chance.choice(["ExecuteTask", "ExecuteTask", "ExecuteCallback"]),
            "queue": queue,
            "priority": chance.randrange(5),
            "slots": chance.choice([1, 1, 3]),
            "dag_id": "d",
            "run_id": "r",
            "task_id": f"t{chance.randrange(5)}",
            "try_number": 1,
            "log_path": chance.choice([f"d/{job_id}.log", f"d/{job_id}.log", "d/shared.log", None]),
            "workload": {"ti": {"id": job_id}, "context": {"ü": [1, 2.5, None]}},
        }
        admin = topics.admin_request(identity)
        submit = (topics.submit(queue, ExecutorName(identity.name)), {"kind": "submit", "job": job, "token": "t"})
        others: list[tuple[str, Document]] = [
            (admin, {"kind": "executor_hello"}),
            (admin, {"kind": "event_ack", "job_id": job_id}),
            (admin, {"kind": "cancel_job", "job_id": job_id}),
            (
                admin,
                {
                    "kind": "adopt_request",
                    "request_id": "a",
                    "job_ids": [job_id, "x"],
                    "take_over": chance.random() < 0.5,
                },
            ),
            (admin, {"kind": "error", "error": "what?"}),
        ]
        topic, header = submit if chance.random() < 0.6 else chance.choice(others)
        return identity, topic, header, b""

    def _of_operator(self) -> tuple[Identity, str, Document, bytes]:
        chance = self._chance
        identity = Identity(Role.OPERATOR, "olga")
        request = {
            "kind": "tail_request",
            "request_id": f"t{chance.randrange(9)}",
            "selector": {"dag_id": "d", "task_id": "t1", "run_id": chance.choice([None, "r"]), "map_index": -1},
            "positions": {"d/shared.log": 3},
            "last_lines": chance.choice([None, 3]),
            "cursor": chance.randrange(9),
        }
        return identity, self._topics.admin_request(identity), request, b""

    # ------------------------------------------------------------ what is made of it

    def _packet(self, header: Document, body: bytes) -> bytes:
        chance = self._chance
        line = json.dumps({"v": 1, **header}, ensure_ascii=chance.random() < 0.8)
        plain = line.encode(errors="surrogatepass") + (b"\n" + body if body else b"")
        if chance.random() < 0.1:
            return compress(plain)
        if chance.random() < 0.05:
            return self._fragment(plain)
        return plain

    def _fragment(self, plain: bytes) -> bytes:
        chance = self._chance
        index, count = chance.choice([0, 1, 2, 5000, 30_000]), chance.choice([1, 2, 3, 20_480])
        header = {"kind": "fragment", "v": 1, "of": chance.choice(["a", "b", "\0"]), "index": index, "count": count}
        half = len(plain) // 2
        return json.dumps(header).encode() + b"\n" + (plain[half:] if index else plain[:half])

    def _damaged(self, payload: bytes) -> bytes:
        chance, data = self._chance, bytearray(payload)
        how = chance.randrange(7)
        if how == 0:
            return payload[: chance.randrange(len(payload) + 1)]
        if how == 1:
            return payload.decode("latin-1").encode(chance.choice(["utf-16", "utf-32", "utf-16-le", "utf-7"]))
        if how == 2:
            return MAGIC + chance.randbytes(chance.randrange(60))
        if how == 3:
            return chance.randbytes(chance.randrange(200))
        if how == 4:
            return b"[" * 3000 + payload
        for _ in range(chance.randrange(1, 9)):
            position = chance.randrange(len(data) + 1)
            data[position : position + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        return bytes(data)

    def _odd_topic(self, topic: str) -> str:
        levels = topic.split("/")
        levels[self._chance.randrange(len(levels))] = self._chance.choice(
            ["", "%00", "%ED%A0%80", "%ff", "w1", "ann", "x" * 5000, "a%2Fb", "+"]
        )
        return "/".join(levels)
