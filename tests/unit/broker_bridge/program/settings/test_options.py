"""A program's options are the schema's."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.program.command import new_app, run_command
from edge_mqtt.broker_bridge.program.settings.options import Given, with_settings
from edge_mqtt.broker_bridge.program.settings.schema import settings_of
from edge_mqtt.broker_bridge.program.settings.setting import Reader

app = new_app("edge-test")
seen: list[tuple[Given, bool]] = []


@app.command()
@with_settings(Reader.BRIDGE)
def command(*, given: Given, more: bool = False) -> int:
    """Do it."""
    seen.append((given, more))
    return 0


def test_what_is_given_comes_by_the_setting_s_name() -> None:
    assert run_command(app, "edge-test", ["--port", "1", "--more", "--log-folder", "/logs"]) == 0
    given, more = seen.pop()
    assert {name: text for name, text in given.items() if text is not None} == {
        "bridge_port": "1",
        "base_log_folder": "/logs",
    }
    assert more


def test_help_tells_everything_of_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    monkeypatch.setenv("COLUMNS", "300")
    run_command(app, "edge-test", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for setting in settings_of(Reader.BRIDGE):
        option = setting.readers[Reader.BRIDGE]
        if option is not None:
            assert f"{option} {setting.kind.metavar}" in text
            assert setting.help.split(".")[0] in text
