"""What is wrong with one workload stays with it: neither an exception nor a text of it may end Airflow's scheduler.

Airflow's scheduler calls an executor from its loop and ends on whatever comes out of it, as it does when its database
cannot take what an event says (``airflow.jobs.scheduler_job_runner``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from uuid import UUID

from airflow.models.callback import CallbackKey
from airflow.models.taskinstancekey import TaskInstanceKey
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.protocol.errors import ProtocolError, failure_line, problem_of

if TYPE_CHECKING:
    from airflow.executors.workloads.types import WorkloadKey

log = logging.getLogger(__name__)

#: Characters of a reason that Airflow is told.
MAX_REASON_CHARS: Final = 1_000
#: What Airflow's columns of numbers hold.
_MAX_INTEGER: Final = 2**31 - 1


@contextmanager
def isolated(on_fault: Callable[[str], None]) -> Iterator[None]:
    """Hand over why something about one workload failed, in one line, instead of letting it go up.

    :raises SQLAlchemyError: trouble of the database is no workload's: the transaction is the scheduler's.
    """
    try:
        yield
    except SQLAlchemyError:
        raise
    except Exception as error:
        log.debug("a workload is at fault", exc_info=True, extra={"action": "workload_fault"})
        on_fault(reason_of(error))


def reason_of(error: BaseException) -> str:
    """Return what an exception says in one line for people."""
    if isinstance(error, ValidationError):
        return problem_of(error)
    if isinstance(error, ProgramError | ProtocolError):
        return storable_text(str(error))
    return failure_line(error)


def storable_text(text: str) -> str:
    """Return ``text`` as every database of Airflow takes it: valid Unicode without NUL, and not too long."""
    whole = text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return whole if len(whole) <= MAX_REASON_CHARS else whole[: MAX_REASON_CHARS - 1] + "…"


def is_storable_key(key: WorkloadKey) -> bool:
    """Tell whether Airflow can look for ``key`` in its database; asked for any other, its scheduler would end."""
    if isinstance(key, TaskInstanceKey):
        texts = (key.dag_id, key.task_id, key.run_id)
        numbers = (key.map_index, key.try_number)
        return all(map(_is_storable_text, texts)) and all(abs(number) <= _MAX_INTEGER for number in numbers)
    return not isinstance(key, CallbackKey) or _is_uuid(key.id)


def _is_storable_text(text: str) -> bool:
    return "\0" not in text and text == text.encode(errors="replace").decode()


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
