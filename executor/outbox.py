"""What the executor sends until it is answered, and what the bridge has told it. No threads, no clock, no connection.

Everything that goes out stays here until the bridge has answered it; what is answered how, is decided here.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cachetools import LRUCache

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    TAKEN,
    TAKEN_OVER,
    AdoptReply,
    AdoptRequest,
    CancelAck,
    CancelJob,
    JobAccepted,
    JobFinished,
    JobSpec,
    JobStarted,
    Message,
    Outcome,
    Submit,
)
from edge_mqtt.broker_bridge.protocol.messages.bounds import is_job_id
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity

#: Jobs in one question to the bridge.
_JOBS_PER_QUESTION = 1_000
#: Jobs whose final event is acknowledged without asking. A repeat can only come shortly after the first, at most one
#: reconnect later; one that has dropped out of the memory is just offered again.
_DISMISSED_MEMORY = 10_000


@dataclass(frozen=True, slots=True)
class UnknownJobs:
    """The bridge does not know these jobs."""

    job_ids: tuple[JobId, ...]
    #: It had accepted them; else they never arrived, or were purged.
    forgotten: bool = False


#: An acceptance is news when it is of a job that this program has not submitted: it waits in the executor's name.
News = JobAccepted | JobStarted | JobFinished | UnknownJobs


@dataclass(frozen=True, slots=True)
class Adoption:
    """What the bridge has answered so far about jobs that are to be taken over; it knows all others."""

    unknown: frozenset[JobId]
    #: About these it has answered nothing yet.
    unanswered: frozenset[JobId]


#: Topic and message, in the order of sending.
Outgoing = list[tuple[str, Message]]
#: What something unanswered is about: its kind and the job's or request's id.
_Subject = tuple[str, str]


@dataclass(slots=True)
class Unanswered:
    """Something that is sent again until it is answered."""

    subject: _Subject
    #: Makes the messages, for whoever we are on the connection.
    messages: Callable[[Identity], Outgoing] = field(repr=False)
    jobs: tuple[JobId, ...]
    #: Monotonic seconds.
    due_at: float
    delay_s: float


def _portions(job_ids: Sequence[JobId]) -> Iterator[tuple[JobId, ...]]:
    for start in range(0, len(job_ids), _JOBS_PER_QUESTION):
        yield tuple(job_ids[start : start + _JOBS_PER_QUESTION])


class Outbox:
    """Outgoing things until they are answered, incoming news until they are read."""

    def __init__(self, topics: Topics, *, resend_s: float, resend_at_most_s: float) -> None:
        """Prepare.

        :param resend_s: seconds until something unanswered is sent again; doubled each time up to the next one.
        """
        self._topics = topics
        self._resend_s = resend_s
        self._resend_at_most_s = resend_at_most_s
        self._unanswered: dict[_Subject, Unanswered] = {}
        self._acks: dict[JobId, None] = {}
        #: Jobs that the bridge has and that are not over.
        self._held: dict[JobId, None] = {}
        #: Questions about jobs whose submission is not answered yet.
        self._postponed: list[Unanswered] = []
        self._dismissed: LRUCache[JobId, None] = LRUCache(_DISMISSED_MEMORY)
        self._news: deque[News] = deque()
        #: The questions whose answer the executor waits for, and the unknown jobs of those that are answered.
        self._awaited: dict[str, tuple[JobId, ...]] = {}
        self._answers: dict[str, frozenset[JobId]] = {}

    # ------------------------------------------------------------ outgoing

    def submit(self, job: JobSpec, token: str, now: float) -> Unanswered:
        """Keep a job until the bridge has it."""

        def messages(me: Identity) -> Outgoing:
            return [(self._topics.submit(job.queue, ExecutorName(me.name)), Submit(job=job, token=token))]

        # Whatever became of it before, its end is awaited now.
        self._dismissed.pop(job.job_id, None)
        return self._keep(("submit", job.job_id), messages, (job.job_id,), now)

    def cancel(self, job_id: JobId, now: float) -> Unanswered:
        """Keep a cancel until the bridge has it."""

        def messages(me: Identity) -> Outgoing:
            return [(self._topics.admin_request(me), CancelJob(job_id=job_id))]

        self.dismiss(job_id)
        return self._keep(("cancel", job_id), messages, (job_id,), now)

    def withdraw(self, job_id: JobId, now: float) -> Unanswered:
        """Keep a cancel that concerns the job only while it has not started; its end is news then."""
        pending = self._unanswered.get(("cancel", job_id))
        if pending is not None:
            return pending

        def messages(me: Identity) -> Outgoing:
            return [(self._topics.admin_request(me), CancelJob(job_id=job_id, unless_started=True))]

        return self._keep(("cancel", job_id), messages, (job_id,), now)

    def adopt(self, job_ids: Sequence[JobId]) -> tuple[str, ...]:
        """Ask whether the bridge knows these jobs, until it answers; return the ids of the questions.

        What is being submitted is asked about when that is answered: a bridge takes no job any more that it was asked
        about and did not know.
        """
        for job_id in job_ids:
            # Its final event may have been acknowledged before the job was adopted; the bridge tells it again.
            self._dismissed.pop(job_id, None)
        submitted = tuple(job_id for job_id in job_ids if self._is_submitted(job_id))
        odd = tuple(job_id for job_id in job_ids if not is_job_id(job_id))
        others = [job_id for job_id in job_ids if not (self._is_submitted(job_id) or job_id in odd)]
        asked: dict[str, tuple[JobId, ...]] = {}
        for some in _portions(others):
            asked[self._add_question("adopt", some)] = some
        if odd:
            # Another executor's, then: no bridge can know them.
            asked[key := uuid.uuid4().hex] = odd
            self._answers[key] = frozenset(odd)
        if submitted:
            question = self._new_question("adopt", submitted)
            self._postponed.append(question)
            asked[question.subject[1]] = submitted
        self._awaited.update(asked)
        return tuple(asked)

    def _add_question(self, kind: str, job_ids: tuple[JobId, ...], *, take_over: bool = True) -> str:
        """Ask from now on; return the question's id."""
        question = self._new_question(kind, job_ids, take_over=take_over)
        self._unanswered[question.subject] = question
        return question.subject[1]

    def _new_question(self, kind: str, job_ids: tuple[JobId, ...], *, take_over: bool = True) -> Unanswered:
        """Return the question whether the bridge knows these jobs, to be sent at once."""
        request = AdoptRequest(request_id=uuid.uuid4().hex, job_ids=job_ids, take_over=take_over)

        def messages(me: Identity) -> Outgoing:
            return [(self._topics.admin_request(me), request)]

        subject = (kind, request.request_id)
        return Unanswered(subject=subject, messages=messages, jobs=job_ids, due_at=0.0, delay_s=self._resend_s)

    def _keep(
        self, subject: _Subject, messages: Callable[[Identity], Outgoing], jobs: tuple[JobId, ...], now: float
    ) -> Unanswered:
        item = Unanswered(
            subject=subject, messages=messages, jobs=jobs, due_at=now + self._resend_s, delay_s=self._resend_s
        )
        self._unanswered[subject] = item
        return item

    def acknowledge(self, job_id: JobId) -> None:
        """Keep the message that Airflow has the job's final event until it is sent."""
        self.dismiss(job_id)
        self._acks[job_id] = None

    def dismiss(self, job_id: JobId) -> None:
        """Acknowledge the job's final event whenever it comes, without handing it out; submit it no more."""
        self._remove(("submit", job_id))
        self._held.pop(job_id, None)
        self._dismissed[job_id] = None

    def fail_item(self, item: Unanswered, why: str) -> None:
        """Keep ``item`` no longer: it can never be sent; its jobs have failed."""
        self._remove(item.subject)
        self._news.extend(
            JobFinished(job_id=job_id, outcome=Outcome.FAILED, detail=why)
            for job_id in item.jobs
            if is_job_id(job_id)
        )

    def resend_all(self) -> None:
        """Have everything unanswered sent again, and ask whether what is answered is still known.

        There is a new connection. A bridge whose ledger was lost, or is yesterday's, would never tell the end of a
        job that it accepted after that.
        """
        for subject in [subject for subject in self._unanswered if subject[0] == "held"]:
            del self._unanswered[subject]
        # What is being taken over is still another executor's, for all that is known.
        adopting = {job_id for item in self._open_questions() for job_id in item.jobs}
        held = [job_id for job_id in self._held if job_id not in adopting]
        for some in _portions(held):
            self._add_question("held", some, take_over=False)
        for item in self._unanswered.values():
            item.due_at, item.delay_s = 0.0, self._resend_s

    def _remove(self, subject: _Subject) -> Unanswered | None:
        """Keep something no longer, and return it; a question that only waited for it is due."""
        closed = self._unanswered.pop(subject, None)
        if closed is not None and subject[0] == "submit":
            for question in [one for one in self._postponed if not any(map(self._is_submitted, one.jobs))]:
                self._postponed.remove(question)
                self._unanswered[question.subject] = question
        return closed

    def _is_submitted(self, job_id: JobId) -> bool:
        return ("submit", job_id) in self._unanswered

    def _open_questions(self) -> list[Unanswered]:
        """Return the questions about jobs that are to be taken over."""
        return [*self._postponed, *(item for item in self._unanswered.values() if item.subject[0] == "adopt")]

    def due(self, now: float) -> list[Unanswered]:
        """Return what is to be sent now, oldest first, and plan when it is to be sent again."""
        due = [item for item in self._unanswered.values() if item.due_at <= now]
        for item in due:
            item.due_at = now + item.delay_s
            item.delay_s = min(2 * item.delay_s, self._resend_at_most_s)
        return due

    def next_due_at(self) -> float | None:
        """Return when something is to be sent again, in monotonic seconds."""
        return min((item.due_at for item in self._unanswered.values()), default=None)

    def pop_acks(self) -> list[JobId]:
        """Return the acknowledgements to send; what could not be sent is to be given back to ``acknowledge``."""
        acks, self._acks = list(self._acks), {}
        return acks

    @property
    def unsent_acks(self) -> int:
        """How many acknowledgements are still to be sent."""
        return len(self._acks)

    @property
    def unanswered(self) -> int:
        """How much the bridge has not answered."""
        return len(self._unanswered) + self.postponed

    @property
    def postponed(self) -> int:
        """How many questions wait for the answer to a submission."""
        return len(self._postponed)

    @property
    def is_clear(self) -> bool:
        """The bridge has every job and, as far as that can be known, every acknowledgement."""
        return not self._acks and not any(kind == "submit" for kind, _ in self._unanswered)

    # ------------------------------------------------------------ incoming

    def accept_message(self, message: Message) -> bool:
        """Take a message of the bridge; False when it is none for an executor."""
        if isinstance(message, JobAccepted | JobStarted | JobFinished):
            self._accept_job_news(message)
        elif isinstance(message, CancelAck):
            self._remove(("cancel", message.job_id))
        elif isinstance(message, AdoptReply):
            self._accept_adopt_reply(message)
        else:
            return False
        return True

    def _accept_job_news(self, message: JobAccepted | JobStarted | JobFinished) -> None:
        submitted = self._remove(("submit", message.job_id))
        if isinstance(message, JobFinished):
            self._remove(("cancel", message.job_id))
            self._held.pop(message.job_id, None)
        elif submitted is not None:
            self._held[message.job_id] = None
        is_own = isinstance(message, JobAccepted) and (submitted is not None or message.job_id in self._held)
        if not is_own and not self._is_dismissed(message):
            self._news.append(message)

    def _accept_adopt_reply(self, reply: AdoptReply) -> None:
        held = self._remove(("held", reply.request_id))
        if held is not None:
            self._check_held(reply, held.jobs)
            return
        asked = self._remove(("adopt", reply.request_id))
        if asked is None:
            return
        self._held.update(dict.fromkeys(job_id for job_id in reply.states if job_id not in self._dismissed))
        # What was said before they were taken over, that another executor had them, is over.
        self._news = deque(item for item in self._news if not _is_let_go(item, reply.states))
        unknown = tuple(job_id for job_id in asked.jobs if job_id not in reply.states)
        if reply.request_id in self._awaited:
            self._answers[reply.request_id] = frozenset(unknown)
        elif unknown:
            self._news.append(UnknownJobs(unknown))

    def _check_held(self, reply: AdoptReply, asked: Iterable[JobId]) -> None:
        """Tell about the jobs that this executor no longer has; what has ended meanwhile is left out."""
        unfinished = [job_id for job_id in asked if job_id in self._held]
        unknown = tuple(job_id for job_id in unfinished if job_id not in reply.states)
        taken = [job_id for job_id in unfinished if reply.states.get(job_id) == TAKEN]
        for job_id in (*unknown, *taken):
            del self._held[job_id]
        if unknown:
            self._news.append(UnknownJobs(unknown, forgotten=True))
        self._news.extend(
            JobFinished(job_id=job_id, outcome=Outcome.CANCELLED, detail=TAKEN_OVER, revoked=True) for job_id in taken
        )

    def is_answered(self, asked: Iterable[str]) -> bool:
        """Tell whether the bridge has answered all of these questions."""
        return all(request_id in self._answers for request_id in asked)

    def collect_answers(self, asked: Iterable[str]) -> Adoption:
        """Return what the bridge has answered, and wait no longer: later answers are news."""
        unknown: set[JobId] = set()
        unanswered: set[JobId] = set()
        for request_id in asked:
            jobs = self._awaited.pop(request_id)
            answer = self._answers.pop(request_id, None)
            if answer is None:
                unanswered.update(jobs)
            else:
                unknown.update(answer)
        return Adoption(unknown=frozenset(unknown), unanswered=frozenset(unanswered))

    def pop_news(self) -> list[News]:
        """Return what has come in since the last call, oldest first."""
        news = [item for item in self._news if not self._is_dismissed(item)]
        self._news.clear()
        return news

    def _is_dismissed(self, item: News) -> bool:
        """Tell whether ``item`` is of a job that was dismissed; a final event is acknowledged then."""
        if isinstance(item, UnknownJobs) or item.job_id not in self._dismissed:
            return False
        if isinstance(item, JobFinished):
            self._acks[item.job_id] = None
        return True


def _is_let_go(news: News, jobs: Container[JobId]) -> bool:
    """Tell whether ``news`` says that one of ``jobs`` is another executor's."""
    return isinstance(news, JobFinished) and news.revoked and news.job_id in jobs
