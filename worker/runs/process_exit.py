"""Waits in the loop for the end of a process that need not be a child of ours."""

from __future__ import annotations

import asyncio
import os

from edge_mqtt.worker.system.process import ProcessIdentity


async def wait_process_exit(identity: ProcessIdentity) -> None:
    """Wait until that very process has ended."""
    try:
        descriptor = os.pidfd_open(identity.pid) if identity.is_alive() else -1
    except OSError:
        descriptor = -1
    if descriptor < 0:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if not identity.is_alive():
            return
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
