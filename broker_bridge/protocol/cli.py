"""Tools for people who work on the protocol: print a packet, make one, write the generated parts of its page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode, read, write
from edge_mqtt.broker_bridge.protocol.compression import MAGIC
from edge_mqtt.broker_bridge.protocol.documentation import page
from edge_mqtt.broker_bridge.protocol.errors import MalformedMessage, ProtocolError
from edge_mqtt.broker_bridge.protocol.messages import Fragment, Message

PROGRAM: Final = "python -m edge_mqtt.broker_bridge.protocol"
EXIT_UNREADABLE: Final = 2
#: The packets of one message come on one topic; which one makes no difference here.
_TOPIC: Final = ""
STDIN: Final = Path("-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 with one line on stderr for what cannot be read.

    :param arguments: the command line without the program's name; None: the process's own.
    """
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    decode = commands.add_parser("decode", help="Print what MQTT payloads say, secrets too.")
    decode.add_argument(
        "files", nargs="*", type=Path, default=[STDIN], metavar="FILE", help="A payload, raw or in hex; - for stdin."
    )
    make = commands.add_parser("encode", help="Print the payloads of a message in hex, one a line.")
    make.add_argument("file", type=Path, metavar="FILE", help="Its line of JSON and its body; - for stdin.")
    docs = commands.add_parser("docs", help="Write the generated parts of protocol.md, and the JSON Schema.")
    docs.add_argument("folder", type=Path, metavar="FOLDER", help="Where protocol.md is.")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "decode":
            _print_decoded(chosen.files)
        elif chosen.command == "encode":
            print("\n".join(packet.hex() for packet in encode(read(_content(chosen.file)))))
        else:
            page.write_into(chosen.folder)
    except (ProtocolError, ProgramError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return EXIT_UNREADABLE
    return 0


def _print_decoded(files: Sequence[Path]) -> None:
    decoder = Decoder()
    is_whole = False
    for file in files:
        packet = payload(_content(file))
        part = read(packet)
        if isinstance(part, Fragment):
            print(f"fragment {part.index + 1} of {part.count}: {len(part.body)} bytes of packet {part.of}")
        message = decoder.feed(_TOPIC, packet)
        is_whole = message is not None
        if message is not None:
            _print_message(message, len(packet))
    if not is_whole:
        raise MalformedMessage("fragments are missing: name the files of all of them, in any order")


def _print_message(message: Message, size: int) -> None:
    plain = write(message)
    print(f"{message.kind}: {size} bytes, {len(plain)} before compression")
    line, _, body = plain.partition(b"\n")
    print(json.dumps(json.loads(line), indent=2, ensure_ascii=False))
    if body:
        print(f"body of {len(body)} bytes:")
        print(_text_or_hex(body))


def _content(file: Path) -> bytes:
    return sys.stdin.buffer.read() if file == STDIN else file.read_bytes()


def payload(content: bytes) -> bytes:
    """Return a payload that may be written in hex."""
    if content.startswith((MAGIC, b"{")):
        return content
    try:
        return bytes.fromhex(content.decode("ascii"))
    except ValueError:
        return content


def _text_or_hex(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.hex(" ")
