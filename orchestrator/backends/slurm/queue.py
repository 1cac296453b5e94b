"""Asking SLURM for jobs: one squeue for all of them, and one sacct for those that squeue no longer has.

Whether a job lives only slurmctld knows, so squeue is asked about that; accounting only adds how a job ended, and is
never needed. No answer is no evidence: then every job is UNKNOWN, and the next question waits longer.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.backends.backoff import Backoff
from orchestrator.backends.base import Sighting
from orchestrator.backends.slurm import commands
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.states import PASSING, meaning
from orchestrator.state import Cause, JobState

logger = logging.getLogger(__name__)

#: Name of an array's jobs, and index in the array.
Element = tuple[str, int]

#: The name comes last: it is the only field whose text is not SLURM's own.
_SQUEUE_FORMAT = "%i|%T|%S|%e|%r|%j"
_SACCT_FORMAT = "JobID,State,ExitCode,JobName"
#: A start that lies further ahead is no expectation.
_FORESEEABLE_S = 90 * 86400.0
#: Seconds after its end, by squeue, from which no requeue of a job follows any more.
_SETTLED_S = 60.0
#: Clocks of the cluster and of this machine may differ, and jobs are recorded some seconds late.
_ACCOUNTING_MARGIN_S = 3600.0
_ID = re.compile(r"(?P<array>[0-9]+)_(?:(?P<index>[0-9]+)|\[(?P<ranges>[0-9,:-]+)(?:%[0-9]+)?\])")
#: A range is expanded no further than SLURM's own largest array.
_LARGEST_ARRAY = 4_000_001


@dataclass(frozen=True)
class Line:
    """One job in an answer of squeue or sacct.

    Attributes:
        indices: elements of the array ``array_id`` that it speaks of; empty for a job that is no array.
        word: state, in SLURM's words.
        start, end: seconds since the Unix epoch, expected where they are to come; None if not known.
        reason: why it waits; empty if it does not.
        exit_code: ``code:signal``.
    """

    array_id: str
    indices: Collection[int]
    name: str
    word: str
    start: float | None = None
    end: float | None = None
    reason: str = ""
    exit_code: str = ""


@dataclass(frozen=True)
class Answer:
    """What SLURM said in one pass.

    Attributes:
        rows: every element of the names asked for that SLURM knows.
        num_in_queue: all jobs of the user that wait or run, whatever their names; they count against submit limits.
        failure: why there is no answer; empty if there is one.
    """

    rows: Mapping[Element, Sighting] = field(default_factory=dict)
    num_in_queue: int = 0
    failure: str = ""

    def sighting(self, element: Element) -> Sighting:
        """The state of one element: ABSENT if SLURM answered and does not know it, UNKNOWN if it did not answer."""
        if self.failure:
            return Sighting(JobState.UNKNOWN, note=self.failure)
        return self.rows.get(element) or Sighting(JobState.ABSENT)


class Queue:
    """The user's jobs in SLURM's queue."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = Backoff(clock)
        self._accounting_backoff = Backoff(clock)
        self._has_accounting = True
        self._failure = ""
        self._num_jobs = 0
        self._named_lines: set[str] = set()

    @property
    def poll_interval_s(self) -> float:
        """Seconds until the next look: longer for many jobs, which slurmctld has to list, and while it is busy."""
        return max(self._backoff.remaining_s, min(15.0, 2.0 + self._num_jobs / 500))

    def look(self, wanted: Collection[Element], since: float) -> Answer:
        """Ask for jobs, by two questions however many there are. Asks nobody while SLURM is to be left alone.

        Args:
            wanted: elements of arrays that were, or may have been, submitted.
            since: seconds since the Unix epoch; none of them was submitted before.
        """
        if not wanted:
            return Answer()
        if self._backoff.remaining_s > 0:
            return Answer(failure=self._failure)
        try:
            lines, malformed = parse_squeue(_ask_squeue())
        except CommandFailed as error:
            self._failure = f"SLURM does not answer ({error})"
            if self._backoff.failed():
                logger.warning("%s; asked again later", self._failure)
            return Answer(failure=self._failure)
        if self._backoff.succeeded():
            logger.warning("SLURM answers again")
        names = {name for name, _ in wanted}
        ours = [line for line in lines if line.name in names]
        rows = living_rows(ours, time.time())
        self._name_once(malformed)
        unclear = {element for element in wanted if any(text.endswith(f"|{element[0]}") for text in malformed)}
        rows = {element: Sighting(JobState.UNKNOWN, note="SLURM's answer cannot be read") for element in unclear} | rows
        missing = {element for element in wanted if element not in rows}
        recorded = self._recorded(missing, since)
        if recorded is not None:
            rows.update(never_started(missing, ours, recorded))
            rows.update({element: row for element, row in ended_rows(recorded).items() if element in missing})
        num_in_queue = sum(
            len(line.indices) or 1 for line in lines if meaning(line.word).state in (JobState.PENDING, JobState.RUNNING)
        )
        self._num_jobs = len(wanted)
        return Answer(rows, num_in_queue)

    def _recorded(self, missing: Collection[Element], since: float) -> list[Line] | None:
        """What accounting has of the arrays of these elements; None if it gives no answer."""
        if not missing or not self._has_accounting or self._accounting_backoff.remaining_s > 0:
            return None
        try:
            lines, malformed = parse_sacct(_ask_sacct({name for name, _ in missing}, time.time() - since))
        except CommandFailed as error:
            if "accounting storage is disabled" in error.sentence:
                self._has_accounting = False
            elif self._accounting_backoff.failed():
                logger.warning("accounting does not answer (%s); going on by squeue and run directories", error)
            return None
        self._accounting_backoff.succeeded()
        self._name_once(malformed)
        return lines

    def _name_once(self, malformed: Iterable[str]) -> None:
        # The same line may stand in every answer for days.
        for text in malformed:
            if text not in self._named_lines and len(self._named_lines) < 100:
                self._named_lines.add(text)
                logger.warning("SLURM printed a line that cannot be read: %r", text)


def _ask_squeue() -> str:
    # By number: the user may have no name on this machine. All states: what has just ended is still there for a while.
    # Not --array: 22.05 forgets the last element of a list with regular gaps, such as 0-300:2, when it expands it.
    return commands.run(
        "squeue",
        f"--user={os.getuid()}",
        "--all",
        "--states=all",
        "--noheader",
        f"--format={_SQUEUE_FORMAT}",
    )


def _ask_sacct(names: Collection[str], age_s: float) -> str:
    answers = [
        commands.run(
            "sacct",
            f"--user={os.getuid()}",
            "--allocations",
            "--parsable2",
            "--noheader",
            f"--starttime=now-{max(0, int(age_s + _ACCOUNTING_MARGIN_S))}seconds",
            f"--format={_SACCT_FORMAT}",
            f"--name={','.join(piece)}",
        )
        for piece in commands.chunks(sorted(names))
    ]
    return "".join(answers)


def parse_squeue(text: str) -> tuple[list[Line], list[str]]:
    """The jobs in an answer of squeue, and the lines that are none."""
    lines, malformed = [], []
    for raw in filter(None, text.splitlines()):
        fields = raw.split("|", 5)
        place = _place(fields[0])
        if len(fields) < 6 or place is None:
            malformed.append(raw)
            continue
        _, word, start, end, reason, name = fields
        lines.append(Line(*place, name, word, _time(start), _time(end), "" if reason == "None" else reason))
    return lines, malformed


def parse_sacct(text: str) -> tuple[list[Line], list[str]]:
    """The jobs in an answer of sacct, and the lines that are none."""
    lines, malformed = [], []
    for raw in filter(None, text.splitlines()):
        fields = raw.split("|", 3)
        place = _place(fields[0])
        if len(fields) < 4 or place is None:
            malformed.append(raw)
            continue
        _, word, exit_code, name = fields
        lines.append(Line(*place, name, word, exit_code=exit_code))
    return lines, malformed


def _place(job_id: str) -> tuple[str, Collection[int]] | None:
    """Array and elements of an id such as ``12_3`` or ``12_[0-3,7%2]``; ``12`` has none. None if it is no id."""
    match = _ID.fullmatch(job_id)
    if match is None:
        plain = re.match(r"[0-9]+", job_id)
        # A part of a heterogeneous job (12+0) is a job like others.
        return (plain[0], ()) if plain is not None and "_" not in job_id else None
    if match["index"] is not None:
        return match["array"], (int(match["index"]),)
    try:
        return match["array"], [index for piece in match["ranges"].split(",") for index in _range(piece)]
    except ValueError:
        return None


def _range(piece: str) -> range:
    bounds, _, step = piece.partition(":")
    first, _, last = bounds.partition("-")
    found = range(int(first), int(last or first) + 1, int(step or 1))
    if len(found) > _LARGEST_ARRAY:
        raise ValueError(piece)
    return found


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def living_rows(lines: Iterable[Line], now: float) -> dict[Element, Sighting]:
    """What squeue says of the elements of arrays, in our words."""
    rows: dict[Element, Sighting] = {}
    for line in lines:
        means = meaning(line.word)
        state, cause, note = means.state, means.cause, means.note
        is_settled = line.end is not None and line.end < now - _SETTLED_S
        if line.word.upper() in PASSING and not is_settled:
            state, cause, note = JobState.RUNNING, None, f"{note}; may be requeued"
        for index in line.indices:
            job_id = f"{line.array_id}_{index}"
            if state is JobState.PENDING:
                note = waiting_note(line, job_id, now) or means.note
            _put(rows, (line.name, index), Sighting(state, job_id, cause, note))
    return rows


def ended_rows(lines: Iterable[Line]) -> dict[Element, Sighting]:
    """What sacct says of elements that have ended. Of others it says nothing: slurmctld would have them."""
    rows: dict[Element, Sighting] = {}
    for line in lines:
        means = meaning(line.word)
        if means.state is not JobState.ENDED:
            continue
        code = "" if line.exit_code in ("", "0:0") or means.cause is Cause.CANCELLED else f" (exit {line.exit_code})"
        for index in line.indices:
            job_id = f"{line.array_id}_{index}"
            _put(rows, (line.name, index), Sighting(means.state, job_id, means.cause, f"{means.note}{code}".strip()))
    return rows


def never_started(
    missing: Collection[Element], queued: Iterable[Line], recorded: Iterable[Line]
) -> dict[Element, Sighting]:
    """Those of the missing elements that were cancelled while they waited, of which SLURM keeps no record anywhere.

    An array is submitted whole: an element that neither slurmctld nor accounting knows, while slurmctld knows others
    of its array, has been taken out, and has never run.
    """
    arrays = {line.name: line.array_id for line in queued}
    known = {(line.name, index) for line in recorded for index in line.indices}
    return {
        (name, index): Sighting(JobState.ENDED, f"{arrays[name]}_{index}", Cause.CANCELLED, "cancelled while it waited")
        for name, index in missing
        if name in arrays and (name, index) not in known
    }


#: If an element was sent twice, the job counts that may still do something, then the later one.
_LIVELINESS = {JobState.RUNNING: 3, JobState.PENDING: 2, JobState.UNKNOWN: 1, JobState.ENDED: 0, JobState.ABSENT: 0}


def _put(rows: dict[Element, Sighting], element: Element, row: Sighting) -> None:
    known = rows.get(element)
    if known is None or _rank(row) > _rank(known):
        rows[element] = row


def _rank(row: Sighting) -> tuple[int, int]:
    return _LIVELINESS[row.state], int(row.job_id.partition("_")[0])


#: Why SLURM lets a job wait -> the same for people. What is not here is shown in SLURM's own words.
_REASONS = {
    "Priority": "waits behind jobs of higher priority",
    "Resources": "waits for resources",
    "JobArrayTaskLimit": "waits for a slot (max_parallel)",
    "Dependency": "waits for another job (dependency)",
    "DependencyNeverSatisfied": "will never start: its dependency cannot be met; `scancel {job_id}`",
    "JobHeldUser": "held; `scontrol release {job_id}`",
    "JobHeldAdmin": "held by an administrator",
    "ReqNodeNotAvail": "waits for nodes that are not available",
    "NodeDown": "waits for a node that is down",
    "Licenses": "waits for licenses",
    "Reservation": "waits for its reservation",
    "PartitionDown": "waits for its partition, which is down",
    "PartitionInactive": "waits for its partition, which is inactive",
    "PartitionNodeLimit": "will not start: more nodes than its partition allows",
    "PartitionTimeLimit": "will not start: more time than its partition allows",
    "BadConstraints": "will not start: no node fits its constraints",
    "AccountNotAllowed": "will not start: its partition does not take the account",
    "QOSNotAllowed": "will not start: its partition does not take the qos",
    "InvalidAccount": "will not start: the account is not valid",
    "InvalidQOS": "will not start: the qos is not valid",
    "Prolog": "its nodes are being prepared",
    "Cleaning": "its last attempt is being cleaned up",
}


def waiting_note(line: Line, job_id: str, now: float) -> str:
    """Why a job waits and when it is expected to start, for people; empty if SLURM gives no reason yet."""
    word, _, more = line.reason.partition(",")
    # Where a job without a time limit is in the way, SLURM expects the start in a year.
    is_expected = line.start is not None and line.start < now + _FORESEEABLE_S
    expected = _clock_time(line.start, now) if line.start is not None and is_expected else ""
    if word == "BeginTime":
        return f"starts again at {expected} (BeginTime)" if expected else "waits for its start time (BeginTime)"
    if word in _REASONS:
        note = _REASONS[word].format(job_id=job_id)
    elif re.fullmatch(r"(Assoc|QOS|Max|Grp)\w*", word):
        note = f"waits for a limit of the account or qos ({word})"
    elif "held" in word:
        note = f"{word}; `scontrol release {job_id}`"
    else:
        note = f"waits ({word})" if word else ""
    if more.strip():
        note = f"{note} ({more.strip()})"
    if not expected or (line.start or 0) < now:
        return note
    return f"{note or 'waits'}, expected {expected}"


def _clock_time(moment: float, now: float) -> str:
    then, today = datetime.fromtimestamp(moment), datetime.fromtimestamp(now)
    return f"{then:%H:%M}" if then.date() == today.date() else f"{then:%d %b %H:%M}"
