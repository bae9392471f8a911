"""The dispatcher's face: events in, decisions out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.batch import Batch
from edge_mqtt.broker_bridge.dispatch.core.effects import Decision
from edge_mqtt.broker_bridge.dispatch.core.indexes import Indexes
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.state import DispatchState
from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView

__all__ = ["DispatchSettings", "Dispatcher"]


class _ChangesAJob(Exception):
    """A decision cannot stay, because it cannot be committed."""


class Dispatcher:
    """Decides what becomes of jobs: (what is known, event, now) to changed jobs and effects.

    :meth:`load` comes first, once. From then on everything happens in a :meth:`batch`, one at a time, each to its end
    before the next: decide about some events, commit what has changed, leave the batch, and only then perform the
    effects. Leaving it by an exception, which a failed commit raises, undoes it. A batch of one :class:`Tick` is due
    at :meth:`next_deadline` when nothing else has happened by then. ``view`` may be read at any time.

    Nothing waits, and nothing is durable here: that is its caller's part. All calls come from one thread, which
    passes the time in, in seconds of one monotonic clock. What it raises (:class:`IllegalMove`) is a bug of ours.
    """

    def __init__(self, settings: DispatchSettings) -> None:
        self._settings = settings
        self._state = DispatchState()
        self._indexes = Indexes(self._state, settings)
        self.view = DispatchView(self._state, self._indexes)

    def load(self, jobs: Iterable[Job], now: float, *, last_sequence: int = 0) -> None:
        """Begin with the ledger's live jobs; their workers have ``settle_s`` to show up again.

        :param now: monotonic seconds.
        :param last_sequence: the highest sequence that the ledger ever stored.
        """
        self._state.last_sequence = last_sequence
        with self.batch() as batch:
            batch.recall(jobs, now)

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Begin a batch: what the block decides stays when it ends, and is undone when it ends by an exception."""
        batch = Batch(self._state, self._indexes, self._settings)
        try:
            yield batch
        except BaseException:
            batch.undo()
            raise

    def handle_unless_changing(self, event: events.Event, now: float) -> Decision | None:
        """Decide about one event by itself; None, and nothing is decided, when that would change a job.

        For as long as nothing can be committed. What is due, and what waits for a worker, stays so.
        """
        with suppress(_ChangesAJob), self.batch() as batch:
            if batch.missing(event):
                return None
            decision = batch.handle_alone(event, now)
            if not decision.changed:
                return decision
            raise _ChangesAJob
        return None

    def next_deadline(self) -> float | None:
        """Return when a Tick is due at the latest, in monotonic seconds."""
        first = self._indexes.deadlines.first()
        return None if first is None else first[0]
