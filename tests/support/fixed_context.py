"""A TLS context that stays what it is, where programs have one that follows its files."""

from __future__ import annotations

import ssl


class FixedContext:
    """Gives every connection the same context."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def __call__(self) -> ssl.SSLContext:
        """Return it."""
        return self._context

    def warn_of_expiry(self) -> None:
        """Know of no files."""
