"""``python -m edge_mqtt.broker_bridge.protocol`` prints packets, makes them, and writes parts of their page."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_mqtt.broker_bridge.protocol.cli import EXIT_UNREADABLE, main
from edge_mqtt.broker_bridge.protocol.codec import encode, write
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_TURN_BYTES
from edge_mqtt.broker_bridge.protocol.messages import LogChunk, Message, Presence, TailReply, WorkerState

PRESENCE = Presence(incarnation="i" * 40, connection=1, state=WorkerState.ONLINE, queues=("größe",))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "packet"


def encoded(message: Message) -> bytes:
    (packet,) = encode(message)
    return packet


@pytest.mark.parametrize(
    "packet",
    [
        encoded(PRESENCE),
        write(PRESENCE),
        encoded(PRESENCE).hex().encode(),
        b" 7b 22\n" + write(PRESENCE)[2:].hex().encode(),
    ],
    ids=["compressed", "plain", "hex", "hex with spaces"],
)
def test_packet_is_printed_whatever_form_it_has(
    file: Path, capsys: pytest.CaptureFixture[str], packet: bytes
) -> None:
    file.write_bytes(packet)
    assert main(["decode", str(file)]) == 0
    head, _, text = capsys.readouterr().out.partition("\n")
    assert head.startswith("presence: ")
    assert json.loads(text) == json.loads(write(PRESENCE))
    assert "größe" in text


def test_packet_comes_from_stdin_when_no_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(encoded(PRESENCE))))
    assert main(["decode"]) == 0
    assert capsys.readouterr().out.startswith("presence: ")


@pytest.mark.parametrize(
    ("body", "shown"),
    [("größe: 7\n".encode(), "größe: 7"), (b"\xff\x00\x01", "ff 00 01"), (b"", "")],
    ids=["text", "bytes", "none"],
)
def test_body_is_printed_as_text_or_in_hex(
    file: Path, capsys: pytest.CaptureFixture[str], body: bytes, shown: str
) -> None:
    chunk = LogChunk(job_id=JobId("j"), fence=Fence(1), offset=0, body=body)
    file.write_bytes(encoded(chunk))
    assert main(["decode", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(f"body of {len(body)} bytes:\n{shown}" if body else "}")


def test_fragments_are_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    packets = encode(TailReply(request_id="r", body=os.urandom(MAX_TURN_BYTES)))
    for file, packet in zip(files, packets, strict=True):
        file.write_bytes(packet)
    assert main(["decode", *map(str, reversed(files))]) == 0
    last, first, whole, *_ = capsys.readouterr().out.splitlines()
    assert last.startswith("fragment 2 of 2: ")
    assert first.startswith("fragment 1 of 2: ")
    assert whole.startswith("tail_reply: ")
    assert main(["decode", str(files[0])]) == EXIT_UNREADABLE
    assert "fragments are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        (b"hello", "not a message of ours"),
        (b"", "not a message of ours"),
        (b'{"kind":"sing"}', "unknown message kind 'sing'"),
        (b'{"kind":"finished"}', "malformed finished message: job_id: Field required"),
        (b'{"v":7}', "the sender speaks protocol version 7, this program speaks 1: upgrade this program"),
    ],
)
def test_packet_that_cannot_be_read_is_one_line_and_exit_code_2(
    file: Path, capsys: pytest.CaptureFixture[str], packet: bytes, says: str
) -> None:
    file.write_bytes(packet)
    assert main(["decode", str(file)]) == EXIT_UNREADABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert says in line


def test_file_that_is_not_there_is_one_line_and_exit_code_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", str(file)]) == EXIT_UNREADABLE
    assert "No such file" in capsys.readouterr().err


def test_message_is_encoded_in_hex(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(write(PRESENCE))
    assert main(["encode", str(file)]) == 0
    assert bytes.fromhex(capsys.readouterr().out) == encoded(PRESENCE)


def test_page_is_written_by_a_command(tmp_path: Path) -> None:
    docs = Path(__file__).parents[4] / "docs"
    (tmp_path / "protocol.md").write_bytes((docs / "protocol.md").read_bytes())
    command = [sys.executable, "-m", "edge_mqtt.broker_bridge.protocol", "docs", str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 0
    schema = tmp_path / "protocol/messages.schema.json"
    assert schema.read_bytes() == (docs / "protocol/messages.schema.json").read_bytes()
    schema.write_text("")
    assert main(["docs", str(tmp_path)]) == 0
    assert schema.read_bytes() == (docs / "protocol/messages.schema.json").read_bytes()
