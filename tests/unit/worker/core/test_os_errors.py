"""Which errors of the operating system fail a job, and which are waited out."""

from __future__ import annotations

import errno

import pytest

from edge_mqtt.worker.core.os_errors import concerns_job


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENOTDIR, errno.EISDIR, None])
def test_what_would_happen_again_is_the_job_s(number: int | None) -> None:
    assert concerns_job(number)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_what_passes_or_somebody_sees_to_is_the_machine_s(number: int) -> None:
    assert not concerns_job(number)
