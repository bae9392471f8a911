"""Whom an error of the operating system concerns: the job that met it, or the machine that it was met on."""

from __future__ import annotations

import errno
from typing import Final

#: Errors of the machine. They pass by themselves or when somebody has seen to the disk, and every job meets them: a
#: full or read-only disk, one that cannot be read or does not answer, and a want of memory or descriptors.
OF_THE_MACHINE: Final = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    }
)


def concerns_job(error_number: int | None) -> bool:
    """Tell whether ``error_number`` (``errno``) is the job's: another attempt would end as this one did.

    All that is not the machine's: a name that is too long, a link that leads in a circle, a folder that is a file or
    may not be entered. Airflow's own executors fail a task on any of these.
    """
    return error_number not in OF_THE_MACHINE
