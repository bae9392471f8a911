"""What is wrong with Airflow's configuration, for every program that loads Airflow; imports nothing of it."""

from __future__ import annotations

import configparser

#: Airflow's own error of a setting that it cannot use. By its name: with such a setting Airflow cannot be imported.
_AIRFLOWS_ERROR = "AirflowConfigException"


def configuration_fault(error: BaseException) -> str | None:
    """Return one line about Airflow's configuration; None when ``error`` is about something else.

    :param error: what loading Airflow or asking for one of its settings raised.
    """
    ours = isinstance(error, (configparser.Error, UnicodeDecodeError)) or type(error).__name__ == _AIRFLOWS_ERROR
    if not ours:
        return None
    reason = " ".join(str(error).split()).rstrip(".")
    return f"Airflow's configuration cannot be used: {reason}. Fix airflow.cfg, or the AIRFLOW__… variable"
