"""Names of other people's modules that stand for something of ours, and what they stood for before.

Nothing of that may be left where a Dag's code runs: whatever is replaced in a supervisor or in a task is replaced by
way of this file (a test looks), and put back before the first line of a Dag is read.
"""

from __future__ import annotations

from typing import Any, Final


class ReplacedNames:
    """Those of one process, and of those forked from it."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, ours: Any) -> Any:
        """Let a module's or a class's name stand for ``ours``; return what it stood for."""
        original = vars(owner)[name]
        self._originals.append((owner, name, original))
        setattr(owner, name, ours)
        return original

    def restore(self) -> None:
        """Put all back."""
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)


REPLACED: Final = ReplacedNames()
