"""What a field of a message may have: every bound of a text, a number and a list on the wire stands here.

A message that does not fit is refused by its model, whoever made it. Text for people is the exception: it is made to
fit, because it may quote anything. What has passed here every database can store and every program of ours can send.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from edge_mqtt.broker_bridge.protocol import ids
from edge_mqtt.broker_bridge.protocol.errors import readable
from edge_mqtt.broker_bridge.protocol.limits import (
    MAX_FRAGMENTS,
    MAX_HTTP_CHARS,
    MAX_ID_CHARS,
    MAX_INTEGER,
    MAX_ITEMS,
    MAX_JSON_DEPTH,
    MAX_LOG_BYTES,
    MAX_NAME_CHARS,
    MAX_PATH_BYTES,
    MAX_PROSE_CHARS,
    MAX_SECONDS,
    MAX_SMALL_INTEGER,
)

T = TypeVar("T")

#: PostgreSQL has no NUL. Half a character (a lone surrogate) is refused by pydantic itself where there is a pattern.
_WITHOUT_NUL: Final = r"^[^\x00]*$"
#: Bits of a number in a workload at most: what is larger is none for most readers of JSON (RFC 8259, section 6).
_MAX_JSON_BITS: Final = 1024


def _check_path(path: str) -> str:
    size = len(path.encode())
    if size > MAX_PATH_BYTES:
        raise ValueError(f"it has {size} bytes, at most {MAX_PATH_BYTES} are allowed")
    return path


def _make_readable(value: Any) -> Any:
    return readable(value, MAX_PROSE_CHARS) if isinstance(value, str) else value


def check_json(document: dict[str, Any]) -> dict[str, Any]:
    """Return ``document`` when it is JSON that every program can write, read and store.

    :raises ValueError: it has something that is not JSON, half a character, a number that is none for most readers,
        or more than ``MAX_JSON_DEPTH`` levels.
    """
    level: list[Any] = [document]
    for _ in range(MAX_JSON_DEPTH):
        level = [inner for value in level for inner in _check_value(value)]
        if not level:
            return document
    raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} levels deep")


def _check_value(value: Any) -> list[Any]:
    """Return what is in a value: keys and values of an object, entries of an array."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("an object has a key that is not text")
        return [*value, *value.values()]
    elif isinstance(value, list | tuple):
        return list(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number in JSON")
    elif isinstance(value, int):
        if value.bit_length() > _MAX_JSON_BITS:
            raise ValueError("it has a number that is too large")
    elif value is not None:
        raise ValueError(f"it has a {type(value).__name__}, which is not JSON")
    return []


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has text that is not Unicode: half a character") from None


# ---------------------------------------------------------------- text

JobId = Annotated[ids.JobId, Field(min_length=1, max_length=MAX_ID_CHARS, pattern=_WITHOUT_NUL)]
#: What tells a request from others. It travels as a header of HTTP, too.
RequestId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS, pattern=r"^[!-~]*$")]
#: A name that may be missing.
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS, pattern=_WITHOUT_NUL)]
RequiredName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=_WITHOUT_NUL)]
Path = Annotated[str, Field(max_length=MAX_PATH_BYTES, pattern=_WITHOUT_NUL), AfterValidator(_check_path)]
#: For people.
Prose = Annotated[str, BeforeValidator(_make_readable), Field(max_length=MAX_PROSE_CHARS)]
#: A token, or a part of an HTTP request.
HttpText = Annotated[str, Field(max_length=MAX_HTTP_CHARS, pattern=_WITHOUT_NUL)]

# ---------------------------------------------------------------- numbers

Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
SmallInteger = Annotated[int, Field(ge=-MAX_SMALL_INTEGER, le=MAX_SMALL_INTEGER)]
SmallCount = Annotated[int, Field(ge=0, le=MAX_SMALL_INTEGER)]
Slots = Annotated[int, Field(ge=1, le=MAX_SMALL_INTEGER)]
Fence = Annotated[ids.Fence, Field(ge=0, le=MAX_INTEGER)]
HttpStatus = Annotated[int, Field(ge=100, le=999)]
#: Of a log, or a place in one.
LogBytes = Annotated[int, Field(ge=0, le=MAX_LOG_BYTES)]
FragmentIndex = Annotated[int, Field(ge=0, lt=MAX_FRAGMENTS)]
FragmentCount = Annotated[int, Field(ge=2, le=MAX_FRAGMENTS)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Offset = Annotated[float, Field(ge=-MAX_SECONDS, le=MAX_SECONDS, allow_inf_nan=False)]
UnixTime = Annotated[float, Field(ge=-MAX_SECONDS, le=MAX_SECONDS, allow_inf_nan=False)]

# ---------------------------------------------------------------- lists

Items = Annotated[tuple[T, ...], Field(max_length=MAX_ITEMS)]
Headers = Annotated[dict[Name, HttpText], Field(max_length=MAX_NAME_CHARS)]
Workload = Annotated[dict[str, Any], AfterValidator(check_json)]


def is_job_id(value: object) -> bool:
    """Tell whether ``value`` can be the id of a job on the wire."""
    try:
        _job_id().validate_python(value)
    except ValidationError:
        return False
    return True


@cache
def _job_id() -> TypeAdapter[ids.JobId]:
    return TypeAdapter(JobId)
