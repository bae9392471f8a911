"""What we use of other people's libraries without a promise is still there, and stands in the files made for it."""

from __future__ import annotations

import pytest

from tests.support.borrowed_names import (
    BORROWED,
    ROOT,
    Borrowed,
    overridden_in,
    private_names_in,
    source_files,
)


@pytest.mark.parametrize("borrowed", BORROWED, ids=str)
def test_the_name_is_as_we_know_it(borrowed: Borrowed) -> None:
    complaint = borrowed.complaint()
    assert complaint is None, complaint


def test_no_file_uses_a_private_name_that_is_not_on_its_list() -> None:
    surplus = {
        name: unlisted
        for path in source_files()
        if (unlisted := used_in(name := str(path.relative_to(ROOT))) - listed_for(name))
    }
    assert not surplus, f"list these in tests/support/borrowed_names.py, or do without them: {surplus}"


def test_every_private_name_on_the_list_is_used_by_its_file() -> None:
    unused = {name: left for name in {each.file for each in BORROWED} if (left := listed_for(name) - used_in(name))}
    assert not unused, f"these are used no more: {unused}"


@pytest.mark.parametrize(
    ("library", "files"),
    [
        ("airflow", {"executor/airflow_hooks.py", "worker/supervisor/airflow_internals.py"}),
        ("amqtt", {"broker_bridge/broker/amqtt_session.py"}),
        ("asyncio", {"broker_bridge/broker/asyncio_internals.py"}),
        ("paho", {"broker_bridge/transport/paho_connection.py"}),
        ("uvicorn", {"worker/api/server.py"}),
        ("websockets", {"broker_bridge/broker/tls_connection.py"}),
    ],
)
def test_what_is_borrowed_of_a_library_stands_in_few_files(library: str, files: set[str]) -> None:
    assert {each.file for each in BORROWED if each.name.startswith((f"{library}.", f"{library}:"))} == files


def test_nothing_private_of_uvicorn_and_websockets_is_used() -> None:
    assert not [each for each in BORROWED if each.private_parts and each.library in ("uvicorn", "websockets")]


def used_in(file: str) -> set[str]:
    path = ROOT / file
    return private_names_in(path.read_text(encoding="utf-8")) | overridden_in(path)


def listed_for(file: str) -> set[str]:
    return {part for each in BORROWED if each.file == file for part in each.private_parts}


# ---------------------------------------------------------------- the check itself


def borrowed(name: str, parameters: str | None = None) -> Borrowed:
    return Borrowed(library="amqtt", name=name, file="broker_bridge/x.py", parameters=parameters)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (borrowed("amqtt.nothing:Broker"), "has no more the place that it is in"),
        (borrowed("amqtt.broker:Brook.start"), "has no more the place that it is in"),
        (borrowed("amqtt.broker:Broker._gone"), "is gone"),
        (borrowed("amqtt.broker:Broker._get_handler", "name"), "takes (session), no longer (name)"),
        (borrowed("amqtt.broker:DEFAULT_PORTS", "name"), "cannot be called"),
    ],
    ids=str,
)
def test_what_has_changed_is_told_in_one_sentence_with_the_place_to_look_at(changed: Borrowed, problem: str) -> None:
    complaint = changed.complaint() or ""
    assert complaint.startswith("In amqtt 0.")
    assert problem in complaint
    assert complaint.endswith(": look at broker_bridge/x.py.")


@pytest.mark.parametrize("name", ["amqtt.broker:Broker._sessions", "amqtt.broker:Broker._get_handler"])
def test_a_name_may_be_a_classs_or_an_objects(name: str) -> None:
    assert borrowed(name).complaint() is None


@pytest.mark.parametrize(
    "source",
    [
        "handler._pending",
        "self._pending",
        "from amqtt._pending import it",
        "from amqtt import _pending",
        "import amqtt._pending",
        "getattr(handler, '_pending')",
        "vars(module)['_pending'] = 1",
        "make(_pending=1)",
    ],
)
def test_a_private_name_is_found_in_whatever_way_it_is_used(source: str) -> None:
    assert private_names_in(source) == {"_pending"}


@pytest.mark.parametrize(
    "source",
    [
        "handler.__class__",
        "os._exit(1)",
        "def _mine(): ...\n_mine()",
        "class A:\n    def __init__(self):\n        self._mine = 1\n    def get(self):\n        return self._mine",
        "_MINE = 1\nmodule._MINE",
    ],
)
def test_what_is_our_own_is_not(source: str) -> None:
    assert private_names_in(source) == set()
