"""A worker that is written from docs/protocol.md alone gets its job done by the real bridge."""

from __future__ import annotations

import ast
import random
import string
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.codec import encode
from edge_mqtt.broker_bridge.protocol.compression import dictionary_file
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_TURN_BYTES
from edge_mqtt.broker_bridge.protocol.messages import (
    JobAccepted,
    JobFinished,
    JobSpec,
    JobStarted,
    Outcome,
    Submit,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role
from tests.support import independent_worker
from tests.support.bridge_program import Site, free_port, wait_until_healthy
from tests.support.free_client import FreeClient

TOPICS = Topics()
ANN, LAB = Identity(Role.EXECUTOR, "ann"), Identity(Role.WORKER, "lab.3")
PROGRAM = Path(independent_worker.__file__)
QUEUE = "press/1 größe"
JOB = JobId("0199a7c2-5d0e-7c41-9f0a-2b7c1d3e4f50")


def submission(workload: dict[str, str]) -> list[bytes]:
    job = JobSpec(
        job_id=JOB,
        type=WorkloadType.CALLBACK,
        queue=QUEUE,
        log_path="independent/one.log",
        workload={"callback": workload},
    )
    return encode(Submit(job=job, token="t"))


@pytest.mark.parametrize("characters", [10, 300_000], ids=["one packet", "fragments"])
def test_worker_of_another_make_runs_a_job(tmp_path: Path, characters: int) -> None:
    site, port, health_port = Site(tmp_path), free_port(), free_port()
    bridge = site.start(port=port, health_port=health_port)
    site.certificates.issue(LAB, force=False, now=datetime.now(UTC))
    wait_until_healthy(health_port)
    executor = FreeClient(site, port, ANN, TOPICS.events(ExecutorName(ANN.name)))
    try:
        text = "".join(random.Random(7).choices(string.printable[:90], k=characters))
        packets = submission({"text": text})
        assert (len(packets) > 1) == (characters > MAX_TURN_BYTES)
        for packet in packets:
            executor.say(TOPICS.submit(QUEUE, ExecutorName(ANN.name)), packet)
        arguments = [
            f"wss://127.0.0.1:{port}/mqtt",
            str(site.certificates.folder(LAB)),
            LAB.name,
            QUEUE,
            str(dictionary_file()),
        ]
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *arguments], timeout=60, check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        accepted, started, finished = [message for _, message in executor.heard(3)]
    finally:
        executor.stop()
        bridge.terminate()
        bridge.communicate(timeout=60)
    assert accepted == JobAccepted(job_id=JOB)
    assert started == JobStarted(job_id=JOB, worker=LAB.name)
    assert isinstance(finished, JobFinished)
    assert (finished.outcome, finished.worker) == (Outcome.SUCCESS, LAB.name)
    assert (tmp_path / "airflow/logs/independent/one.log").read_bytes() == independent_worker.LOG


def test_it_knows_nothing_of_ours() -> None:
    source = PROGRAM.read_text(encoding="utf-8")
    imported = {
        name.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert not [name for name in imported if name.startswith(("edge_mqtt", "tests", "airflow"))]
    assert len(source.splitlines()) < 180
