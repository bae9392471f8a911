"""The lease of running jobs, as far as both sides must agree on it."""

from __future__ import annotations

from typing import Final

#: Seconds by which the worker's lease ends before the centre's: what it takes at most to notice the end and to kill.
LEASE_MARGIN_S: Final = 5.0
