"""For all tests."""

from __future__ import annotations

from hypothesis import settings

# Whatever profile Hypothesis has chosen (in CI: the same examples each time), but without its limit of 200 ms for one
# example: the machine may be busy.
settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")
