"""The worker's own waits. What the bridge decides (``kill_grace``, ``presence_interval``) is not here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerTiming:
    """Seconds of each wait. Parts get the whole; tests hand over a faster one."""

    # ------------------------------------------------------------ bridge

    #: After which a presence without a welcome is sent again: the bridge may just not be there yet.
    welcome_wait_s: float = 5.0
    #: Between looks at a lease that is running out: the machine may have slept meanwhile.
    lease_look_s: float = 2.0
    #: After which an unacknowledged result is sent again on a connection that is up: the bridge may have had no room
    #: to store it.
    result_repeat_s: float = 30.0
    #: After which an unanswered call is sent again on a connection that is up: the broker may have lost it, or its
    #: answer. The bridge performs a call once, however often it comes.
    call_repeat_s: float = 30.0

    #: For which results and logs get to reach the bridge once nothing runs; what is left is sent at the next start.
    unsent_wait_s: float = 10.0

    # ------------------------------------------------------------ disk

    #: Between attempts to store something while the disk is full.
    store_retry_s: float = 5.0

    # ------------------------------------------------------------ runs

    #: Between attempts to start the launcher again.
    launcher_retry_s: float = 5.0
    #: For which the launcher gets to say how a supervisor died that wrote nothing.
    exit_code_wait_s: float = 2.0
    #: Before the SIGKILL, from which on a task's heartbeats are refused. Airflow's supervisor, which makes one a
    #: second, then repeats the SIGTERM and waits 5 s for the task's end before it sends SIGKILL itself (``kill`` in
    #: airflow.sdk execution_time/supervisor.py): it has to be waiting when ours comes, and ours has to come first.
    refused_before_kill_s: float = 3.0
    #: For which a supervisor gets to end by itself when its task is killed.
    supervisor_end_s: float = 3.0
    #: Between attempts to kill what cannot be killed: another user's, or stuck in the kernel.
    kill_repeat_s: float = 5.0
    #: After which a supervisor that was given up, and came too late, has come and gone.
    late_supervisor_s: float = 60.0

    # ------------------------------------------------------------ logs

    #: Between looks at a file that is not watched: it is not there yet, or there is no inotify.
    log_look_s: float = 0.05
    #: Between looks at files that are watched, while jobs run: for what a watch does not see (network mounts).
    watched_log_look_s: float = 5.0
    #: From one look to the next at least: what is written meanwhile travels together. Lines that come one by one do
    #: not wait.
    log_pace_s: float = 0.05
