"""OpenTelemetry is on: the launcher has one thread all the same, and tasks send what they send elsewhere."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from tests.support.scenario_worker import Lab, fresh_home, play, supervisor_of
from tests.support.worker_lab import task_job
from tests.support.worker_program import Site, broker, new_site, options, start

ON = {"AIRFLOW__TRACES__OTEL_ON": "True", "AIRFLOW__METRICS__OTEL_ON": "True"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """What a collector has got, by its paths."""
    paths: set[str] = set()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            paths.add(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for name, value in ON.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp_proto_http")
        yield paths
        server.shutdown()
        thread.join()


@pytest.fixture
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


def test_forked_launcher_has_one_thread(tmp_path: Path, collector: set[str]) -> None:
    site = new_site(tmp_path)
    with broker(site) as port:
        program = start(
            tmp_path, *options(Site(certs=site.certs, url=f"wss://localhost:{port}/mqtt"), "lab-1", tmp_path)
        )
        program.line("connected to")
        (launcher,) = psutil.Process(program.process.pid).children()
        assert launcher.num_threads() == 1
        code, rest = program.end(signal.SIGTERM)
    assert code == ExitCode.DONE
    assert "more than one thread" not in rest
    assert not collector


@pytest.mark.usefixtures("airflow_home")
def test_task_of_a_launcher_with_one_thread_sends_its_spans(tmp_path: Path, collector: set[str]) -> None:
    async def scenario(lab: Lab) -> None:
        held = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(held, "tick 1")
        launcher = supervisor_of(lab.state, held).parent()
        assert launcher is not None
        assert launcher.num_threads() == 1
        lab.until_file.touch()
        assert (await lab.bridge.result(held)).exit_code == 0

    play(tmp_path, scenario)
    assert "/v1/traces" in collector


@pytest.mark.usefixtures("airflow_home")
def test_threads_that_the_site_s_own_settings_start_are_told_of_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "home" / "config"
    config.mkdir()
    code = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), name='of-the-site', daemon=True).start()\n"
    )
    (config / "airflow_local_settings.py").write_text(code)

    async def scenario(_lab: Lab) -> None:
        """Nothing runs."""

    play(tmp_path, scenario)
    told = [record.getMessage() for record in caplog.records if record.__dict__.get("action") == "launcher_threads"]
    assert len(told) == 1
    assert "a task may hang: of-the-site." in told[0]


def test_threads_are_named_and_those_of_libraries_counted() -> None:
    code = """
import threading, time
from edge_mqtt.worker.launcher.threads import other_threads
assert other_threads() == ()
threading.Thread(target=time.sleep, args=(600,), name="one", daemon=True).start()
import _thread
_thread.start_new_thread(time.sleep, (600,))
print(other_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "('one', '1 of libraries')"
