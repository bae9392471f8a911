"""The file with the last contact that the bridge has confirmed, from which every job's lease counts.

The worker writes it. Its launcher and each supervisor read it when the worker is dead, and so does the next worker.
"""

from __future__ import annotations

from pathlib import Path

from edge_mqtt.worker.core.lease import Contact
from edge_mqtt.worker.system.files import write_atomically


def contact_path(runs_dir: Path) -> Path:
    """Return where it is, next to the runs whose leases count from it."""
    return runs_dir / "lease"


def read_contact(runs_dir: Path, *, now: float) -> Contact | None:
    """Return the contact; None when there is none, or none of this boot.

    :param now: seconds since boot.
    """
    try:
        data = contact_path(runs_dir).read_bytes()
    except OSError:
        return None
    return Contact.from_json(data, now=now)


def write_contact(runs_dir: Path, contact: Contact) -> None:
    """Write the contact. It is not synced to the disk: after a loss of power there is nothing left to stop.

    :raises OSError: it cannot be written.
    """
    write_atomically(contact_path(runs_dir), contact.to_json(), durable=False)
