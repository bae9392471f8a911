"""Trains the dictionary that packets are compressed with, on what a real system sends.

Runs a whole system on this machine, records at its bridge every packet before it is packed, takes out what is one
installation's own (names, paths, hosts, tokens), trains on three samples in four and says what the others gain.
Writing another dictionary than the one released needs a number of its own (``compression.DICTIONARY_ID``).
"""

from __future__ import annotations

import argparse
import base64
import getpass
import json
import random
import re
import socket
import string
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import zstandard

from deploy.quickstart.stack import Stack, WorkerSpec
from edge_mqtt.broker_bridge.protocol.compression import DICTIONARY_ID, LEVEL, dictionary_file

DAGS = Path(__file__).parent / "dictionary_dags"
DAG_ID = "dict_sample"
#: What Airflow's tasks are called in the samples' Dags, and the workers.
NAMES = ("dict_sample", "nothing", "words", "pulls", "fails", "mapped", "shell", "edge-1")
#: Bytes of the dictionary: half the size costs 2 % of the gain, twice the size brings 1 %.
SIZE = 16 * 1024
#: As many samples every kind has at least.
RARE = 50
#: Runs in the bridge's process, at its start.
RECORDER = """
import sys
if any(word.endswith("edge-bridge") for word in sys.orig_argv):
    import base64
    from edge_mqtt.broker_bridge.protocol import codec
    samples, write, parse = open({file!r}, "ab", buffering=0), codec.write, codec._parse
    def note(packet):
        samples.write(base64.b64encode(packet) + b"\\n")
    def noted_write(*arguments, **named):
        packet = write(*arguments, **named)
        note(packet)
        return packet
    def noted_parse(packet):
        note(packet)
        return parse(packet)
    codec.write, codec._parse = noted_write, noted_parse
"""


def record(folder: Path, runs: int) -> list[bytes]:
    """Run a system; return every packet that its bridge has sent and received, as it was before it was packed."""
    file = folder / "samples"
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(RECORDER.format(file=str(file)))
    environment = {"PYTHONPATH": str(folder / "site")}
    with Stack(folder / "s", dags=DAGS, workers=[WorkerSpec(name="edge-1")], environment=environment) as stack:
        stack.wait_for_dag(DAG_ID)
        for _ in range(runs):
            stack.wait_run(DAG_ID, stack.trigger(DAG_ID))
    return [base64.b64decode(line) for line in file.read_bytes().splitlines()]


def neutral(packet: bytes, folder: Path, chance: random.Random) -> bytes:
    """Return a packet with names, paths and tokens of nobody: the same ones throughout the packet."""
    new: dict[bytes, bytes] = {}

    def letters(characters: str, count: int) -> bytes:
        return "".join(chance.choice(characters) for _ in range(count)).encode()

    def word(found: re.Match[bytes]) -> bytes:
        return new.setdefault(found[0], letters(string.ascii_lowercase, chance.randrange(4, 12)))

    def as_long(found: re.Match[bytes]) -> bytes:
        return new.setdefault(found[0], letters(string.ascii_letters + string.digits, len(found[0])))

    def other_id(found: re.Match[bytes]) -> bytes:
        return new.setdefault(found[0], str(uuid.UUID(int=chance.getrandbits(128), version=4)).encode())

    homes = "|".join(re.escape(str(folder / "s" / name)) for name in ("edge-1", "central"))
    foreign = (folder, Path(zstandard.__file__).parents[4], Path(__file__).parents[2], Path.home())
    changes: list[tuple[str, Callable[[re.Match[bytes]], bytes]]] = [
        (r"eyJ[\w.-]{20,}", as_long),
        (homes, lambda _: b"/opt/airflow"),
        *((re.escape(str(path)), lambda _: b"/usr/local") for path in foreign),
        *((rf"\b{re.escape(name)}\b", word) for name in (*NAMES, socket.gethostname(), getpass.getuser())),
        (r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", other_id),
    ]
    for pattern, change in changes:
        packet = re.sub(pattern.encode(), change, packet)
    return packet


def kind(sample: bytes) -> str:
    """Return the kind of message that a sample is."""
    return str(json.loads(sample.partition(b"\n")[0])["kind"])


def weighed(samples: Sequence[bytes]) -> list[bytes]:
    """Return the samples, those of rare kinds (presences) several times: on an idle link there is nothing else."""
    counts = Counter(map(kind, samples))
    return [sample for sample in samples for _ in range(max(1, RARE // counts[kind(sample)]))]


def train(samples: Sequence[bytes], size: int) -> zstandard.ZstdCompressionDict:
    """Return a dictionary for packets like these."""
    return zstandard.train_dictionary(size, list(samples), dict_id=DICTIONARY_ID, level=LEVEL)


def gain(samples: Sequence[bytes], dictionary: zstandard.ZstdCompressionDict | None) -> float:
    """Return how many bytes packed samples have for one byte of the samples."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary)
    packed = sum(min(len(sample), len(compressor.compress(sample))) for sample in samples)
    return packed / sum(map(len, samples))


def main() -> None:
    """Train it and write it to its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="of the Dag with the samples (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="a file for the samples, used instead of a run when it is there")
    arguments = parser.parse_args()
    chance = random.Random(0)
    if arguments.keep is not None and arguments.keep.exists():
        samples = [base64.b64decode(line) for line in arguments.keep.read_bytes().splitlines()]
    else:
        with tempfile.TemporaryDirectory(prefix="train-") as folder:
            samples = [neutral(packet, Path(folder), chance) for packet in record(Path(folder), arguments.runs)]
        if arguments.keep is not None:
            arguments.keep.write_bytes(b"".join(base64.b64encode(sample) + b"\n" for sample in samples))
    chance.shuffle(samples)
    others, training = samples[::4], [sample for number, sample in enumerate(samples) if number % 4]
    dictionary = train(weighed(training), SIZE)
    print(f"{len(samples)} samples of {sum(map(len, samples)) / len(samples):.0f} bytes on average")
    print(f"packed without a dictionary: {gain(others, None):.1%}, with it: {gain(others, dictionary):.1%}")
    dictionary_file().write_bytes(dictionary.as_bytes())


if __name__ == "__main__":
    main()
