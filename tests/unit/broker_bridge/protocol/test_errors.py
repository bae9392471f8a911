"""What an error says is one line that quotes no values, whatever it is about."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edge_mqtt.broker_bridge.protocol.errors import failure_line
from edge_mqtt.broker_bridge.protocol.messages import Submit


def test_an_unforeseen_error_is_told_with_its_place_in_one_line() -> None:
    def broken() -> None:
        raise RuntimeError("two\nlines")

    with pytest.raises(RuntimeError) as raised:
        broken()
    line = failure_line(raised.value)
    assert line.startswith("RuntimeError at test_errors.py:")
    assert line.endswith(": two\ufffdlines")
    assert failure_line(KeyError("never raised")) == "KeyError: 'never raised'"


def test_a_value_that_a_model_refuses_is_not_told() -> None:
    with pytest.raises(ValidationError) as raised:
        Submit.model_validate({"token": ["secret"], "job": {}})
    assert "secret" in str(raised.value)
    assert "secret" not in failure_line(raised.value)
    assert ": job.job_id: Field required" in failure_line(raised.value)
