"""What both sides must agree on in numbers: sizes on the wire, and the lease of running jobs."""

from __future__ import annotations

from typing import Final

#: Bytes of one MQTT payload at most. Small enough that a packet never holds up the ones behind it for long on a
#: slow link, large enough that nearly everything travels whole; external brokers allow at least this by default.
MAX_PACKET_BYTES: Final = 128 * 1024
#: Bytes of one MQTT payload at most that is part of what may be large: a call, its answer, a workload, the tail of a
#: log. What is more travels in fragments, between which there is room for what is urgent.
MAX_TURN_BYTES: Final = 4 * 1024
#: Bytes of one message at most, before compression: bounds what a peer can make us hold in memory.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
#: Bytes of JSON in a compressed message at most; the body may have any size. JSON that is read takes up to thirty
#: times its size, and its time: a few bytes from a peer that means ill must not cost us seconds in which all wait.
MAX_COMPRESSED_JSON_BYTES: Final = 32 * 1024
#: Fragments of one packet at most: enough for the largest packet in fragments of 4 KiB. Empty ones take room too.
MAX_FRAGMENTS: Final = 20 * 1024
#: Messages of one sender that may be incomplete at once: those whose fragments take turns. More can only be left over
#: from connections that dropped.
MAX_PARTIAL_MESSAGES: Final = 32
#: Bytes of log in one chunk at most: small enough that a job's messages never wait long behind it on a slow link.
MAX_LOG_CHUNK_BYTES: Final = 64 * 1024
#: The largest number in a field: what every database can store.
MAX_INTEGER: Final = 2**63 - 1
#: The largest number where Airflow has 32 bits for it: slots, map index, try number, exit code.
MAX_SMALL_INTEGER: Final = 2**31 - 1
#: Bytes of one job's log at most. No log comes near it, and thousands of them in one file can still be counted.
MAX_LOG_BYTES: Final = 2**50
#: Seconds in a field at most, durations and Unix times alike: a clock that is set wrongly still fits.
MAX_SECONDS: Final = 10**12
#: Characters of a job's id at most: Airflow's own ids have 36.
MAX_ID_CHARS: Final = 250
#: Characters of a name at most: twice what Airflow's database takes for a Dag, a run, a task or a queue.
MAX_NAME_CHARS: Final = 500
#: Bytes of a log's path below base_log_folder at most, in UTF-8: what PostgreSQL can index.
MAX_PATH_BYTES: Final = 2600
#: Characters of what is said for people at most. What is longer is cut, not refused.
MAX_PROSE_CHARS: Final = 2000
#: Characters of a token, of a call's target and of an HTTP header's value at most: more than any HTTP server takes.
MAX_HTTP_CHARS: Final = 64 * 1024
#: Entries of a list or an object at most.
MAX_ITEMS: Final = 100_000
#: Levels of a workload's JSON at most. What writes JSON gives up between 200 and 255.
MAX_JSON_DEPTH: Final = 100
#: Seconds by which a lease ends on the worker before it ends on the bridge: what it takes at most to notice the end
#: and to kill.
LEASE_MARGIN_S: Final = 5.0
