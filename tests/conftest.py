"""For all tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# What the parts that tests share assert is explained like what the tests assert.
pytest.register_assert_rewrite("tests.support")

# Whatever profile Hypothesis has chosen (in CI: the same examples each time), but without its limit of 200 ms for one
# example: the machine may be busy.
settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")


class _BySystem(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Keeps the tests together that share a running system; the others stay together by file."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, rest = nodeid.partition("::")
        if file.startswith("tests/outages/"):
            return rest.rpartition("[")[2].rpartition("-")[2]
        if file.startswith("tests/e2e/") and "two_executors" not in file:
            return "tests/e2e"
        return file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _BySystem:
    """Say how tests are spread when pytest runs them in several processes."""
    return _BySystem(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write half characters as escapes in what a test printed and logged: xdist sends reports as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
