"""Where a worker's runs and their files are, and what a launcher is told of them: what does not change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.os_errors import concerns_job
from edge_mqtt.worker.errors import LaunchRefused, SpoolError
from edge_mqtt.worker.ipc.run_files import RunFiles
from edge_mqtt.worker.ipc.run_request import RunRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What all runs of a worker have in common."""

    worker: str
    concurrency: int
    runs_dir: Path
    socket_path: Path
    base_log_folder: Path

    def log_file(self, job: LocalJob) -> Path | None:
        """Return the job's log file."""
        return None if job.spec.log_path is None else self.base_log_folder / job.spec.log_path

    def log_file_size(self, job: LocalJob) -> int:
        """Return the bytes in the job's log file, behind which its own log begins.

        :raises LaunchRefused: the job can have no such file here.
        :raises SpoolError: the file cannot be looked at now, and so the job cannot be stored as launched.
        """
        path = self.log_file(job)
        try:
            return 0 if path is None else path.stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            kind = LaunchRefused if concerns_job(error.errno) else SpoolError
            raise kind(f"the log file {job.spec.log_path} cannot be looked at: {error.strerror}") from error

    def files(self, job: LocalJob) -> RunFiles:
        """Return the run's files."""
        return RunFiles.of(self.runs_dir, job.job_id, job.fence, job.launch)

    def run_request(self, job: LocalJob) -> RunRequest:
        """Return what the launcher is told."""
        spec = job.spec
        what = f"{spec.dag_id}.{spec.task_id} {spec.run_id}" if spec.task_id else f"{spec.type} {spec.job_id}"
        return RunRequest(
            job_id=job.job_id,
            fence=job.fence,
            launch=job.launch,
            type=spec.type.value,
            workload=spec.workload,
            log_path=spec.log_path,
            socket_path=str(self.socket_path),
            secret=job.secret,
            lease_s=job.lease_s,
            runs_dir=str(self.runs_dir),
            title=f"edge-worker[{self.worker}]: {what}",
        )
