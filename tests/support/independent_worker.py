"""A worker that knows nothing but docs/protocol.md: it runs one job, which is to write one line of log, and ends.

It imports nothing of ours and reads no file of ours but the dictionary: what it needs and the page does not say, the
page lacks. No durable storage and no reconnecting, so it is an example of the messages and not of a worker's duties.

    python independent_worker.py wss://HOST:PORT/mqtt FOLDER_OF_THE_CERTIFICATE NAME QUEUE DICTIONARY
"""

from __future__ import annotations

import json
import queue
import ssl
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import paho.mqtt.client as mqtt
import zstandard
from paho.mqtt.enums import CallbackAPIVersion

MAGIC = b"\x28\xb5\x2f\xfd"
#: Seconds until what is unanswered is said again.
REPEAT_S = 5.0
LOG = "hello from a worker in another language: größe 7\n".encode()

Header = dict[str, Any]


def level(text: str) -> str:
    """Return a name as one level of a topic."""
    return quote(text, safe="").replace(".", "%2E")


def packet(header: Header, body: bytes | None = None) -> bytes:
    """Return a message as JSON, which needs no compression."""
    line = json.dumps({"v": 1, **header}, ensure_ascii=False).encode()
    return line if body is None else line + b"\n" + body


class Reader:
    """Reads packets of all three forms, and puts fragments together."""

    def __init__(self, dictionary: bytes) -> None:
        self._with_dictionary = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
        self._parts: dict[tuple[str, str], dict[int, bytes]] = {}

    def read(self, topic: str, data: bytes) -> tuple[Header, bytes] | None:
        """Return the message that a packet is, or completes."""
        if data.startswith(MAGIC):
            named = zstandard.get_frame_parameters(data).dict_id
            data = (self._with_dictionary if named else zstandard.ZstdDecompressor()).decompress(data)
        line, _, body = data.partition(b"\n")
        header = json.loads(line)
        if header["kind"] != "fragment":
            return header, body
        parts = self._parts.setdefault((topic, header["of"]), {})
        parts[header["index"]] = body
        whole = b"".join(parts[index] for index in sorted(parts))
        return self.read(topic, whole) if len(parts) == header["count"] else None


class Worker:
    """One connection, one job."""

    def __init__(self, url: str, certs: Path, name: str, served: str, dictionary: bytes) -> None:
        self._name, self._queue, self._reader = level(name), served, Reader(dictionary)
        self._incarnation = uuid.uuid4().hex
        self._sequence = 0
        self._job: Header | None = None
        self._result_acked = self._log_acked = False
        #: What is said again until it is answered, by what answers it.
        self._unanswered: dict[str, tuple[str, bytes]] = {}
        self._arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"worker:{name}", clean_session=True, transport="websockets"
        )
        context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
        context.load_cert_chain(certs / "tls.crt", certs / "tls.key")
        self._client.tls_set_context(context)
        self._client.username_pw_set(self._incarnation)
        self._client.will_set(f"edge/v1/workers/{self._name}", self._presence("offline"), qos=1, retain=True)
        self._client.on_connect = lambda client, *_: client.subscribe([(each, 1) for each in self._filters()])
        self._client.on_subscribe = lambda *_: self._hello()
        self._client.on_message = lambda _client, _data, message: self._arrived.put(
            (message.topic, bytes(message.payload))
        )
        address = urlsplit(url)
        self._client.ws_set_options(path=address.path)
        self._client.connect(address.hostname or "", address.port or 443, keepalive=60)

    def _filters(self) -> tuple[str, ...]:
        return (
            f"edge/v1/jobs/+/to/{self._name}",
            f"edge/v1/control/{self._name}",
            f"edge/v1/rpc/{self._name}/response",
        )

    def _presence(self, state: str) -> bytes:
        held = "finished" if "result_ack" in self._unanswered else "running"
        refs = [] if self._job is None else [{**self._ref(), "state": held}]
        return packet(
            {"kind": "presence", "incarnation": self._incarnation, "home": "nowhere", "connection": 1, "state": state}
            | {"sequence": self._sequence, "queues": [self._queue], "concurrency": 1, "jobs": refs}
        )

    def _hello(self) -> None:
        topic = f"edge/v1/workers/{self._name}"
        self._unanswered["welcome"] = (topic, self._presence("online"))
        self._client.publish(topic, self._presence("online"), qos=1, retain=True)

    def _ref(self) -> Header:
        assert self._job is not None
        return {"job_id": self._job["job"]["job_id"], "fence": self._job["fence"]}

    def _say(self, topic: str, data: bytes, *, until: str | None = None) -> None:
        if until is not None:
            self._unanswered[until] = (topic, data)
        self._client.publish(topic, data, qos=0)

    def run(self) -> None:
        """Work until the bridge has all of one job."""
        self._client.loop_start()
        while not (self._result_acked and self._log_acked):
            try:
                topic, data = self._arrived.get(timeout=REPEAT_S)
            except queue.Empty:
                for topic, data in list(self._unanswered.values()):
                    self._client.publish(topic, data, qos=0, retain=topic.startswith("edge/v1/workers/"))
                continue
            message = self._reader.read(topic, data)
            if message is not None:
                self._handle(*message)
        self._job, self._sequence = None, self._sequence + 1
        self._client.publish(f"edge/v1/workers/{self._name}", self._presence("offline"), qos=1, retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def _handle(self, header: Header, _: bytes) -> None:
        kind = header["kind"]
        self._unanswered.pop(kind, None)
        if kind == "assign" and self._job is None:
            self._job = header
            self._say(f"edge/v1/acks/{self._name}", packet({"kind": "assignment_accepted", **self._ref()}))
            start = {"kind": "start_request", "request_id": uuid.uuid4().hex, **self._ref()}
            self._say(f"edge/v1/rpc/{self._name}/request", packet(start), until="api_response")
        elif kind == "api_response":
            self._finish(error="" if header["status"] == 200 else "the start was refused")
        elif kind == "result_ack":
            self._result_acked = True
        elif kind == "log_ack":
            self._log_acked = header["offset"] == len(LOG)
        elif kind == "error":
            sys.exit(f"the bridge did not understand: {header['error']}")

    def _finish(self, *, error: str) -> None:
        job_id = level(self._ref()["job_id"])
        chunk = packet({"kind": "log_chunk", "offset": 0, **self._ref()}, LOG)
        self._say(f"edge/v1/logs/{self._name}/{job_id}", chunk, until="log_ack")
        ended = {"kind": "finished", "log_size": len(LOG), **self._ref()} | (
            {"error": error} if error else {"exit_code": 0}
        )
        self._say(f"edge/v1/results/{self._name}", packet(ended), until="result_ack")


if __name__ == "__main__":
    url, folder, name, served, file = sys.argv[1:]
    Worker(url, Path(folder), name, served, Path(file).read_bytes()).run()
