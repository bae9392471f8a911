"""For all tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Whatever profile Hypothesis has chosen (in CI: the same examples each time), but without its limit of 200 ms for one
# example: the machine may be busy.
settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests together that share a running system, when pytest spreads them over several processes."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_system_of(item)))


def _system_of(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    if "system" in item.fixturenames:
        return f"system {item.callspec.id.rpartition('-')[2]}"
    return "stack" if "stack" in item.fixturenames else item.nodeid.partition("::")[0]
