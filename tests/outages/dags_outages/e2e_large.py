"""Things that are far larger than a packet: XComs of megabytes and logs of hundreds of them."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from airflow.sdk import dag, get_current_context, task

MEGABYTE = 1_000_000


def conf() -> dict[str, Any]:
    """Return what the run was started with."""
    found: dict[str, Any] = get_current_context()["dag_run"].conf
    return found


def digest(text: str) -> str:
    """Return what tells a text from every other."""
    return f"{len(text)} {hashlib.sha256(text.encode()).hexdigest()}"


@dag(schedule=None)
def e2e_large_xcom() -> None:
    """Hand ``conf["megabytes"]`` of text, which no compressor makes much smaller, from one task to the next."""

    # Airflow would log every byte of it.
    @task(queue="far", retries=0, show_return_value_in_logs=False)
    def push() -> str:
        text = base64.b64encode(os.urandom(conf()["megabytes"] * MEGABYTE * 3 // 4)).decode()
        (Path(conf()["folder"]) / "pushed").write_text(digest(text))
        return text

    @task(queue="far", retries=0)
    def pull(text: str) -> None:
        (Path(conf()["folder"]) / "pulled").write_text(digest(text))

    pull(push())


@dag(schedule=None)
def e2e_flood() -> None:
    """Write log in lines of 10 kB, then odd ones, then wait for ``release``.

    It is ``conf["megabytes"]`` at least, and goes on until ``enough``, up to three times as much.
    """

    @task(queue="far", retries=0)
    def flood() -> None:
        folder = Path(conf()["folder"])
        least = conf()["megabytes"] * 100
        for number in range(3 * least):
            if number >= least and (folder / "enough").exists():
                break
            print(f"line {number} ".ljust(10_000, "."))
            if number == 100:
                (folder / "flooding").touch()
        print("long line " + "=" * 10 * MEGABYTE)
        sys.stdout.buffer.write(b"not text \xff\xfe\x80 from the task\n")
        sys.stdout.buffer.flush()
        subprocess.run(["printf", r"not text \377\376\200 from a child\n"], check=True)
        print("the flood is over")
        (folder / "flooded").touch()
        while not (folder / "release").exists():
            time.sleep(0.1)

    flood()


e2e_large_xcom()
e2e_flood()
