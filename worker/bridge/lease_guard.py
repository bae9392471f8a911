"""Counts the leases from the last contact that the bridge has confirmed, and stops each job when its lease ends."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.lease import Contact, Lease
from edge_mqtt.worker.ipc.contact_file import read_contact, write_contact
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.logs.log_file import append_line
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)

OUT_OF_REACH: Final = "the bridge was out of reach for longer than offline_grace"


class LeaseGuard:
    """The leases of one worker's jobs. Times are seconds since boot."""

    def __init__(self, jobs: JobStore, supervisors: Supervisors, timing: WorkerTiming | None = None) -> None:
        self._jobs = jobs
        self._supervisors = supervisors
        self._timing = timing or WorkerTiming()
        self._runs_dir = supervisors.plan.runs_dir
        #: What the leases count from; at first, what the worker before us left.
        self._contact = read_contact(self._runs_dir, now=boottime())
        self._is_busy = bool(jobs.list_supervised())
        #: Since when there is always a process; those of the worker before us have the leases that it left.
        self._busy_since = -math.inf
        jobs.add_listener(self._record_busy)

    def record_contact(self, sent_at: float) -> None:
        """Count the leases from something that was sent and that the bridge has answered.

        :param sent_at: when that was sent: a presence, or the question whether a job may start.
        """
        if self._contact is not None and sent_at < self._contact.confirmed_at:
            return
        self._contact = Contact(confirmed_at=sent_at, kill_grace_s=self._supervisors.kill_grace_s)
        self._write_contact(self._contact)

    async def run(self) -> None:
        """Stop each running job when its lease ends."""
        while True:
            await self._jobs.wait_until(lambda jobs: bool(jobs.list_supervised()))
            await asyncio.sleep(self._end_leases())

    def _end_leases(self) -> float:
        """Stop the jobs whose lease is over; return the seconds until the next look."""
        contact, now = self._valid_contact(), boottime()
        wait_s = self._timing.lease_look_s
        if contact is None:
            return wait_s
        for job in self._jobs.list_supervised():
            lease = contact.lease(job.lease_s)
            if now >= lease.stop_at:
                self._stop_job(job, lease)
            else:
                wait_s = min(wait_s, lease.stop_at - now)
        return wait_s

    def _stop_job(self, job: LocalJob, lease: Lease) -> None:
        if not self._supervisors.is_running(job.job_id):
            return
        append_line(self._supervisors.plan.log_file(job), f"Stopped by the edge worker: {OUT_OF_REACH}")
        self._supervisors.stop_job(job, OUT_OF_REACH, grace_s=max(0.0, lease.kill_at - boottime()))

    def _valid_contact(self) -> Contact | None:
        """Return what leases count from; None while the processes are new and the bridge has permitted none to start.

        An idle worker says nothing, so that its contact is an old one when it gets something to do.
        """
        contact = self._contact
        return contact if contact is not None and contact.confirmed_at >= self._busy_since else None

    def _record_busy(self) -> None:
        was_busy, self._is_busy = self._is_busy, bool(self._jobs.list_supervised())
        if self._is_busy and not was_busy:
            self._busy_since = boottime()
            # For those that look after the processes should we die now: they may start from here on only.
            self._write_contact(Contact(confirmed_at=self._busy_since, kill_grace_s=self._supervisors.kill_grace_s))

    def _write_contact(self, contact: Contact) -> None:
        try:
            write_contact(self._runs_dir, contact)
        except OSError as error:
            log.warning("the lease cannot be written: %s", error.strerror, extra={"action": "lease_unwritable"})
