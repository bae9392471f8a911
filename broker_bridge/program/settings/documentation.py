"""The tables of settings and options in the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edge_mqtt.broker_bridge.program.generated import with_generated
from edge_mqtt.broker_bridge.program.settings.schema import SETTINGS
from edge_mqtt.broker_bridge.program.settings.setting import Reader, Setting


def write_into(folder: Path) -> None:
    """Write the generated parts of the pages in ``folder`` anew.

    :raises OSError: a page cannot be read or written.
    :raises ProgramError: a page has no place for one of its parts.
    """
    for name, parts in PAGES.items():
        page = folder / name
        lines = {part: table() for part, table in parts.items()}
        page.write_text(with_generated(page.read_text(encoding="utf-8"), lines), encoding="utf-8")


def _shared() -> Iterator[str]:
    yield "| setting | read by | default | allowed | what |"
    yield "|---|---|---|---|---|"
    for setting in SETTINGS:
        if len(setting.readers) > 1:
            readers = ", ".join(setting.readers)
            yield f"| `{setting.name}` | {readers} | {_default(setting)} | {_allowed(setting)} | {_what(setting)} |"


def _of(reader: Reader) -> Callable[[], Iterator[str]]:
    def table() -> Iterator[str]:
        yield "| setting | default | allowed | what |"
        yield "|---|---|---|---|"
        for setting in SETTINGS:
            if list(setting.readers) == [reader]:
                yield f"| `{setting.name}` | {_default(setting)} | {_allowed(setting)} | {_what(setting)} |"

    return table


def _options_of(reader: Reader) -> Callable[[], Iterator[str]]:
    def table() -> Iterator[str]:
        yield "| option | setting in `[edge_mqtt]` | default | what |"
        yield "|---|---|---|---|"
        for setting in SETTINGS:
            if option := setting.readers.get(reader):
                yield f"| `{option}` | `{setting.name}` | {_default(setting)} | {_cell(setting.help)} |"

    return table


def _variables() -> Iterator[str]:
    yield "| option | environment | setting in `[edge_mqtt]` | what |"
    yield "|---|---|---|---|"
    for setting in SETTINGS:
        if option := setting.readers.get(Reader.OPERATOR):
            what = _cell(setting.help)
            yield f"| `{option} {setting.kind.metavar}` | `{setting.own_variable}` | `{setting.name}` | {what} |"


def _default(setting: Setting[Any]) -> str:
    return f"`{setting.default}`" if setting.default else ""


def _allowed(setting: Setting[Any]) -> str:
    allowed, example = setting.kind.allowed, setting.example
    such_as = f"such as `{example}`" if example and example not in allowed else ""
    return _cell(", ".join(filter(None, (allowed, such_as))))


def _what(setting: Setting[Any]) -> str:
    return _cell(" ".join(filter(None, (setting.help, setting.more))))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


#: The pages, and what stands in their generated parts.
PAGES: Final[Mapping[str, Mapping[str, Callable[[], Iterator[str]]]]] = {
    "configuration.md": {
        "settings of several programs": _shared,
        "settings of the bridge": _of(Reader.BRIDGE),
        "settings of the executor": _of(Reader.EXECUTOR),
        "settings of the worker": _of(Reader.WORKER),
        "settings of edge-logs": _of(Reader.OPERATOR),
    },
    "worker.md": {"options of edge-worker": _options_of(Reader.WORKER)},
    "edge-logs.md": {"options of edge-logs": _variables},
}
