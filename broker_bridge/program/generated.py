"""The generated parts of a page of the documentation, each between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from edge_mqtt.broker_bridge.program.errors import ProgramError

BEGIN: Final = "<!-- generated: {} -->"
END: Final = "<!-- end of generated -->"


def with_generated(page: str, parts: Mapping[str, Iterable[str]]) -> str:
    """Return ``page`` with its generated parts written anew.

    :param parts: the lines of each part, by its name.
    :raises ProgramError: the marks of a part are missing.
    """
    for name, lines in parts.items():
        begin = BEGIN.format(name)
        before, is_begun, rest = page.partition(begin)
        _, is_ended, after = rest.partition(END)
        if not (is_begun and is_ended):
            raise ProgramError(f"the page has no part between {begin} and {END}: write both marks into it")
        page = "\n".join((before + begin, *lines, END)) + after
    return page
