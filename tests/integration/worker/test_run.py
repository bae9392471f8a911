"""A worker with real supervisors and real tasks; only the bridge is made of memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    ApiResponse,
    AssignmentAccepted,
    AssignmentRejected,
    ErrorReply,
    LogChunk,
    Presence,
    ReportedJobState,
    StartRequest,
    WorkloadType,
)
from edge_mqtt.worker.launcher.environment import HEARTBEAT_INTERVAL
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.task_jobs import answer_json
from tests.support.worker_lab import CLIENT_ID, NAME, TOPICS, callback_job, execution_api, task_job


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


def test_task_runs_and_its_log_arrives_byte_for_byte(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        assign = task_job("hello")
        job_id = lab.bridge.assign(assign)
        result = await lab.bridge.result(job_id)
        assert (result.exit_code, result.signal, result.error) == (0, None, "")
        await lab.whole_log(job_id, result.log_size)
        assert bytes(lab.bridge.logs[job_id]) == lab.local_log(assign.job.log_path)
        assert b"hello from the edge" in lab.bridge.logs[job_id]
        calls = [(call.method, call.target.rpartition("/")[2]) for call in lab.bridge.of(ApiRequest)]
        assert calls[0] == ("PATCH", "run")
        assert calls[-1] == ("PATCH", "state")
        assert not any(target == "heartbeat" for _, target in calls)
        assert not any("authorization" in call.headers for call in lab.bridge.of(ApiRequest))
        assert all("airflow-api-version" in call.headers for call in lab.bridge.of(ApiRequest))
        assert lab.times_run == 1

    assert play(tmp_path, scenario) is ExitCode.DONE
    left = {path.name for path in (tmp_path / "state" / "runs").iterdir()}
    assert left == {"lease", "launcher.out"}


def test_repeated_assignment_is_confirmed_each_time_and_run_once(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        assign = task_job("wait_for")
        for _ in range(3):
            lab.bridge.assign(assign)
        await lab.log_line(assign.job.job_id, "tick 3")
        lab.until_file.touch()
        await lab.bridge.result(assign.job.job_id)
        # The first was confirmed by the question whether the job may start.
        assert len(lab.bridge.of(AssignmentAccepted)) == 2
        assert lab.times_run == 1

    play(tmp_path, scenario)


def test_logs_far_larger_than_the_windows_arrive_whole_though_chunks_are_lost(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        chunks = 0

        def lose_some(packet: object) -> bool:
            nonlocal chunks
            if "/logs/" not in packet.topic:  # type: ignore[attr-defined]  # a Packet
                return False
            chunks += 1
            return chunks in (2, 3, 9)

        lab.bridge.broker.lose(lose_some)
        assign = task_job("chatty")
        job_id = lab.bridge.assign(assign)
        result = await lab.bridge.result(job_id)
        await lab.whole_log(job_id, result.log_size)
        assert bytes(lab.bridge.logs[job_id]) == lab.local_log(assign.job.log_path)
        assert result.log_size > 1_000_000
        assert all(len(chunk.body) <= 64 * 1024 for chunk in lab.bridge.of(LogChunk))

    play(tmp_path, scenario)


def test_calls_wait_for_the_link_and_are_answered_after_it(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.api = lambda call: None if call.target.startswith("variables/") else execution_api(call)
        job_id = lab.bridge.assign(task_job("asks"))
        asked = (await lab.bridge.until(lambda: lab.bridge.of(ApiRequest, lambda m: "variables/" in m.target)))[0]
        lab.bridge.broker.cut(CLIENT_ID)
        lab.bridge.api = execution_api
        lab.bridge.broker.restore(CLIENT_ID)
        result = await lab.bridge.result(job_id)
        assert result.exit_code == 0
        assert b"the variable is the edge" in lab.bridge.logs[job_id]
        repeated = lab.bridge.of(ApiRequest, lambda m: "variables/" in m.target)
        assert [call.request_id for call in repeated] == [asked.request_id] * 2

    play(tmp_path, scenario)


def test_outage_disturbs_no_running_task_and_everything_arrives_after_it(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        assign = task_job("wait_for")
        job_id = lab.bridge.assign(assign)
        await lab.log_line(job_id, "tick 1")
        lab.bridge.broker.cut(CLIENT_ID)
        before = len(lab.bridge.logs[job_id])
        lab.until_file.touch()
        await lab.local_line(assign.job.log_path, "seen")
        assert len(lab.bridge.logs[job_id]) == before
        lab.bridge.broker.restore(CLIENT_ID)
        result = await lab.bridge.result(job_id)
        await lab.whole_log(job_id, result.log_size)
        assert result.exit_code == 0
        assert bytes(lab.bridge.logs[job_id]) == lab.local_log(assign.job.log_path)
        assert lab.times_run == 1

    play(tmp_path, scenario)


def test_what_one_side_does_not_understand_is_said_on_the_other_and_jobs_run_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.control(ErrorReply(error="unknown message kind 'x'"))
        lab.bridge.broker.publish(TOPICS.control(NAME), b'{"kind":"sing","v":1}', qos=1, retain=False)
        answer = (await lab.bridge.until(lambda: lab.bridge.of(ErrorReply)))[0]
        assert "unknown message kind 'sing'" in answer.error
        result = await lab.bridge.result(lab.bridge.assign(task_job("hello")))
        assert result.exit_code == 0

    play(tmp_path, scenario)
    assert "the bridge did not understand a message: unknown message kind 'x'" in caplog.messages


def test_start_that_the_centre_refuses_runs_no_user_code(tmp_path: Path) -> None:
    def refuse(call: ApiRequest) -> ApiResponse:
        return answer_json(call, 409, {"detail": {"reason": "not_yours", "message": "the fence is an old one"}})

    async def scenario(lab: Lab) -> None:
        lab.bridge.api = refuse
        result = await lab.bridge.result(lab.bridge.assign(task_job("hello")))
        assert result.exit_code == 1
        assert "the fence is an old one" in result.error
        assert lab.times_run == 0

    play(tmp_path, scenario)


def test_jobs_that_cannot_be_taken_are_rejected_with_the_reason(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.assign(task_job("hello", queue="press"))
        lab.bridge.assign(task_job("hello", log_path="../../etc/cron.d/x"))
        lab.bridge.assign(task_job("hello", workload={}))
        await lab.bridge.until(lambda: len(lab.bridge.of(AssignmentRejected)) == 3)
        rejected = lab.bridge.of(AssignmentRejected)
        assert [message.permanent for message in rejected] == [False, True, True]
        assert "press" in rejected[0].reason

    play(tmp_path, scenario)


def test_full_disk_turns_new_jobs_away_and_loses_none_that_was_taken(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        spool = lab.worker._jobs._spool._connection
        pages = spool.execute("PRAGMA page_count").fetchone()[0]
        spool.execute(f"PRAGMA max_page_count = {pages}")
        big = task_job("hello")
        big = big.model_copy(
            update={"job": big.job.model_copy(update={"workload": {**big.job.workload, "more": "x" * 100_000}})}
        )
        lab.bridge.assign(big)
        rejected = (await lab.bridge.until(lambda: lab.bridge.of(AssignmentRejected)))[0]
        assert "disk is full" in rejected.reason
        assert not rejected.permanent
        lab.until_file.touch()
        assert (await lab.bridge.result(job_id)).exit_code == 0

    assert play(tmp_path, scenario) is ExitCode.DONE


def test_failure_of_a_part_ends_the_worker_instead_of_going_unnoticed(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        async def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a bug")

        lab.worker._results.report_exit = fail  # type: ignore[method-assign]  # a bug, on demand
        lab.bridge.assign(task_job("hello"))

    with pytest.raises(ExceptionGroup) as caught:
        play(tmp_path, scenario, ask=None)
    assert caught.value.subgroup(ZeroDivisionError) is not None


def test_callback_asks_for_its_start_and_runs(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(callback_job("lab.called"))
        result = await lab.bridge.result(job_id)
        assert (result.exit_code, result.error) == (0, "")
        assert len(lab.bridge.of(StartRequest)) == 1
        await lab.log_line(job_id, "the callback ran")

    play(tmp_path, scenario)


def test_callback_that_closes_its_sockets_before_it_ends_is_not_waited_for_until_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HEARTBEAT_INTERVAL.variable, "3600")

    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(callback_job("lab.called_to_close_its_sockets"))
        assert (await lab.bridge.result(job_id)).exit_code == 0

    play(tmp_path, scenario)


def test_connection_test_is_made_here_and_reported(tmp_path: Path) -> None:
    job_id = "0199aaaa-0000-7000-8000-000000000002"
    workload = {"type": "TestConnection", "connection_test_id": job_id, "connection_id": "db", "timeout": 20}
    connection = {"conn_id": "db", "conn_type": "nonsense", "host": "h"}

    def api(call: ApiRequest) -> ApiResponse:
        return answer_json(call, 200, connection) if call.method == "GET" else answer_json(call, 204)

    async def scenario(lab: Lab) -> None:
        lab.bridge.api = api
        assign = task_job("", job_id=job_id, type=WorkloadType.CONNECTION_TEST, workload=workload, log_path=None)
        result = await lab.bridge.result(lab.bridge.assign(assign))
        assert (result.exit_code, result.error, result.log_size) == (0, "", 0)
        assert len(lab.bridge.of(StartRequest)) == 1
        report = lab.bridge.of(ApiRequest)[-1]
        assert (report.method, report.target) == ("PATCH", f"connection-tests/{job_id}")
        assert b'"failed"' in report.body

    play(tmp_path, scenario)


def test_task_sees_neither_a_token_nor_the_data_centre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "the-secret-of-the-centre")

    async def scenario(lab: Lab) -> None:
        result = await lab.bridge.result(lab.bridge.assign(task_job("environment")))
        assert result.exit_code == 0
        log = lab.local_log(f"dag_id=lab/run_id=r1/task_id=environment/attempt=1-{result.job_id[:8]}.log").decode()
        assert "AIRFLOW_HOME" in log
        assert "JWT_SECRET" not in log
        secrets = [job.secret for job in lab.worker._jobs]
        assert not any(secret in log for secret in secrets)

    play(tmp_path, scenario, acks_results=False)


def test_idle_worker_says_nothing_and_a_busy_one_renews_its_lease(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        await asyncio.sleep(0.5)
        assert len(lab.bridge.of(Presence)) == 1
        job_id = lab.bridge.assign(task_job("wait_for"))
        renewals = await lab.bridge.until(lambda: lab.bridge.of(Presence, lambda m: m.sequence >= 2 and bool(m.jobs)))
        assert renewals[0].jobs[0].state is ReportedJobState.RUNNING
        lab.until_file.touch()
        await lab.bridge.result(job_id)

    play(tmp_path, scenario, presence_interval_s=0.1)


def test_log_that_stays_on_the_edge_is_there_and_nowhere_else(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        assign = task_job("hello", ships_log=False)
        result = await lab.bridge.result(lab.bridge.assign(assign))
        assert (result.exit_code, result.log_size) == (0, 0)
        await lab.worker._jobs.wait_until(lambda held: not len(held))
        assert not lab.bridge.of(LogChunk)
        assert b"hello from the edge" in lab.local_log(assign.job.log_path)

    play(tmp_path, scenario)


def test_call_over_the_limit_is_refused_in_the_task_which_may_go_on(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("large"))
        result = await lab.bridge.result(job_id)
        assert result.exit_code == 0
        await lab.whole_log(job_id, result.log_size)
        log = lab.bridge.logs[job_id]
        assert re.search(rb"could not push: .*a call of 30000\d\d bytes is over the limit of 2000000 bytes", log)
        assert b"goes on" in log
        pushed = lab.bridge.of(ApiRequest, lambda m: m.target.startswith("xcoms/"))
        assert [call.target.rpartition("/")[2] for call in pushed] == ["small"]

    play(tmp_path, scenario, settings={"max_message_bytes": 2_000_000})
