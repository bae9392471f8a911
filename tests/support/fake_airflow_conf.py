"""Airflow's configuration as a few options."""

from __future__ import annotations


class FakeAirflowConf:
    """Options by name, in whatever section they are asked for."""

    def __init__(self, **options: str) -> None:
        self._options = options

    def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
        """Return an option's value."""
        del section
        return self._options.get(key, fallback)
