"""How much work a piece of Python is, in a number that no other program on the machine changes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Instructions:
    """Counts the bytecode instructions that are executed, in all functions that are called meanwhile."""

    def __init__(self) -> None:
        self.count = 0

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        """Count one event; what ``sys.settrace`` wants."""
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self.trace


@contextmanager
def counted_instructions() -> Iterator[Instructions]:
    """Count what the block executes in this thread."""
    counted, before = Instructions(), sys.gettrace()
    sys.settrace(counted.trace)
    try:
        yield counted
    finally:
        sys.settrace(before)
