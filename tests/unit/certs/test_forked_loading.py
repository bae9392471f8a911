"""Reading a party's folder in another process is like reading it in this one, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.private_files import FileUnusable
from edge_mqtt.certs import loading
from edge_mqtt.certs.forked_loading import load_credentials_forked
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store

WORKER = Identity(Role.WORKER, "lab-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store(tmp_path / "certs")
    store.create(hosts=["localhost"], force=False, now=datetime.now(UTC))
    return store.issue(WORKER, force=False, now=datetime.now(UTC)).folder


def test_party_is_the_same_as_when_it_is_read_here(folder: Path) -> None:
    assert load_credentials_forked(folder) == load_credentials(folder)


@pytest.mark.parametrize("broken", ["tls.crt", "tls.key", "ca.crt"])
def test_what_is_wrong_is_said_as_when_it_is_read_here(folder: Path, broken: str) -> None:
    (folder / broken).write_text("nothing of use")
    with pytest.raises(ProgramError) as here:
        load_credentials(folder)
    with pytest.raises(type(here.value)) as apart:
        load_credentials_forked(folder)
    assert str(apart.value) == str(here.value)


def test_a_mistake_of_ours_is_not_taken_for_a_bad_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: Path) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(loading, "load_credentials", wrong)
    with pytest.raises(ZeroDivisionError, match="ours"):
        load_credentials_forked(folder)


def test_reader_that_is_killed_is_an_error_of_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_credentials", lambda _: os._exit(1))
    with pytest.raises(FileUnusable, match="the process that read it was killed"):
        load_credentials_forked(folder)


def test_no_process_and_no_descriptor_stay(folder: Path) -> None:
    us = psutil.Process()
    before = us.num_fds(), us.children()
    load_credentials_forked(folder)
    assert (us.num_fds(), us.children()) == before


def test_the_process_that_asks_does_not_load_what_reads_certificates(folder: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from edge_mqtt.certs.forked_loading import load_credentials_forked
from edge_mqtt.certs.tls import client_context
client_context(load_credentials_forked(Path({str(folder)!r})))
print([name for name in sys.modules if name.startswith("cryptography")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
