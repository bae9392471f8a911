"""The server that tests and benchmarks start for themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.chaos.postgres import Postgres, PostgresFailed


def fsync(server: Postgres) -> str:
    engine = sa.create_engine(server.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return str(connection.execute(sa.text("SHOW fsync")).scalar_one())


def test_a_server_waits_for_the_disk_only_when_asked(server: Postgres, folder: Path) -> None:
    assert fsync(server) == "off"
    with Postgres(folder / "careful", fsync=True) as careful:
        assert fsync(careful) == "on"


def test_a_server_that_was_never_started_has_no_process(server: Postgres, folder: Path) -> None:
    os.kill(server.pid, 0)
    with pytest.raises(PostgresFailed, match="never started"):
        _ = Postgres(folder / "idle").pid
