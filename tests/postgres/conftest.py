"""A PostgreSQL server for these tests, and a new database in it for each."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.chaos.postgres import Postgres


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder for servers: not below pytest's own, which a server's user may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "pg") as running:
        yield running


@pytest.fixture
def admin(server: Postgres) -> Iterator[sa.Engine]:
    """Connections to the server that no test interferes with."""
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def url(server: Postgres, admin: sa.Engine) -> Iterator[str]:
    """The URL of a new database."""
    name = f"db_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield server.url.rpartition("/")[0] + f"/{name}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
