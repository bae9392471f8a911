"""What the site has set goes before our defaults, wherever it has set it."""

from __future__ import annotations

import pytest

from edge_mqtt.worker.launcher.environment import DEFAULTS, EXAMPLES, HEARTBEAT_INTERVAL, Option, missing_defaults

OURS = {"AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1", "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}


def nothing(_section: str, _name: str) -> bool:
    return False


def test_defaults_are_ours_where_the_site_has_set_nothing() -> None:
    assert missing_defaults({"PATH": "/bin"}, nothing) == OURS


@pytest.mark.parametrize("option", DEFAULTS)
@pytest.mark.parametrize("end", ["", "_CMD", "_SECRET"])
def test_a_variable_of_the_site_goes_before_our_default(option: Option, end: str) -> None:
    missing = missing_defaults({option.variable + end: "7"}, nothing)
    assert missing == {name: value for name, value in OURS.items() if name != option.variable}


@pytest.mark.parametrize("option", DEFAULTS)
@pytest.mark.parametrize("end", ["", "_cmd", "_secret"])
def test_the_site_s_file_goes_before_our_default(option: Option, end: str) -> None:
    missing = missing_defaults({}, lambda *asked: asked == (option.section, option.name + end))
    assert missing == {name: value for name, value in OURS.items() if name != option.variable}


def test_an_option_s_variable_is_airflow_s() -> None:
    assert (HEARTBEAT_INTERVAL.variable, EXAMPLES.variable) == tuple(OURS)
