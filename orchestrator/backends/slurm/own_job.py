"""What a job asks of SLURM about itself: its state, the time it has left, how it ended before, and its requeue.

Questions come back empty rather than fail: slurmctld may be restarting, and a job must not die of that.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from orchestrator.errors import EnvironmentProblem
from orchestrator.retry import Ending
from orchestrator.state import Cause

#: Seconds to wait for an answer. SLURM's programs try for MessageTimeout (10 s) themselves.
_ANSWER_TIMEOUT_S = 30

_TIME_LEFT = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")

#: How accounting names the end of a job that was started again -> what that means for the attempts in it.
_ENDS = {
    "PREEMPTED": Ending(Cause.PREEMPTED, "preempted; the launcher was killed"),
    "NODE_FAIL": Ending(Cause.NODE_FAIL, "the node failed"),
    "BOOT_FAIL": Ending(Cause.NODE_FAIL, "the node failed to boot"),
    "TIMEOUT": Ending(Cause.TIMEOUT, "the time limit was reached; the launcher was killed"),
    "OUT_OF_MEMORY": Ending(Cause.OUT_OF_MEMORY, "SLURM killed the job for want of memory"),
}
#: Anything else: somebody, or SLURM, wanted the job to start again.
_REQUEUED = Ending(Cause.PREEMPTED, "requeued; the launcher was killed")


@dataclass(frozen=True)
class Look:
    """The job as slurmctld sees it.

    Attributes:
        state, reason: SLURM's own words.
        left_s: seconds until the time limit; None without one.
    """

    state: str
    reason: str
    left_s: float | None

    @property
    def is_requeue_ours(self) -> bool:
        """Whether the job should ask for its requeue.

        A job that SLURM is ending is requeued by SLURM, if at all: asking then would bring a cancelled job back to
        life. The time limit is the exception, because SLURM never requeues after it.
        """
        return self.state == "RUNNING" or (self.state == "COMPLETING" and self.reason == "TimeLimit")


@dataclass(frozen=True)
class OwnJob:
    """The array element that this process is the batch step of.

    Attributes:
        restarts: how often SLURM has started it again.
        node: name of this node, which is the first.
        nodelist: all nodes, in SLURM's short form.
    """

    array_job_id: str
    index: int
    restarts: int
    node: str
    nodelist: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read off the environment that SLURM gives a batch script.

        Raises:
            EnvironmentProblem: this is no element of a job array.
        """
        try:
            return cls(
                array_job_id=environment["SLURM_ARRAY_JOB_ID"],
                index=int(environment["SLURM_ARRAY_TASK_ID"]),
                restarts=int(environment.get("SLURM_RESTART_COUNT", "0")),
                node=environment["SLURMD_NODENAME"],
                nodelist=environment["SLURM_JOB_NODELIST"],
            )
        except KeyError as missing:
            raise EnvironmentProblem(
                f"{missing.args[0]} is not set; this program runs in the batch script of a SLURM job array only"
            ) from None

    @property
    def job_id(self) -> str:
        """``<array job id>_<index>``."""
        return f"{self.array_job_id}_{self.index}"

    def hosts(self) -> tuple[str, ...]:
        """Names of all nodes, in the order in which srun numbers its tasks.

        Raises:
            EnvironmentProblem: scontrol cannot tell.
        """
        answer = _ask("scontrol", "show", "hostnames", self.nodelist)
        names = tuple(answer.stdout.split()) if answer is not None and answer.returncode == 0 else ()
        if not names:
            why = "it gives no answer" if answer is None else answer.stderr.strip()
            raise EnvironmentProblem(f"`scontrol show hostnames {self.nodelist}` names no nodes: {why}")
        return names

    def look(self) -> Look | None:
        """The job now; None if slurmctld does not answer."""
        answer = _ask("squeue", "--noheader", f"--jobs={self.job_id}", "--states=all", "--format=%T|%r|%L")
        return parse_look(answer.stdout) if answer is not None and answer.returncode == 0 else None

    def requeue(self) -> str | None:
        """Ask for the requeue: what SLURM has against it, in its words, empty if nothing; None without an answer."""
        answer = _ask("scontrol", "requeue", self.job_id)
        if answer is None or (answer.returncode != 0 and is_no_answer(answer.stderr)):
            return None
        return "" if answer.returncode == 0 else answer.stderr.strip() or f"exit code {answer.returncode}"

    def clear_nice(self) -> None:
        """Let the job, whenever it is requeued, go ahead of the array's elements that never started."""
        _ask("scontrol", "update", f"JobId={self.job_id}", "Nice=0")

    def ending_before(self, started: float) -> Ending:
        """How the start of this job that was under way at ``started`` (seconds since the Unix epoch) came to its end.

        Asks accounting, and makes do without it.
        """
        fields = "--format=State,Start,End"
        answer = _ask("sacct", "-D", "-X", "-n", "-P", "-j", self.job_id, fields, SLURM_TIME_FORMAT="%s")
        found = parse_ending(answer.stdout, started) if answer is not None and answer.returncode == 0 else None
        if found is not None:
            return found
        return _REQUEUED if self.restarts else Ending(Cause.LOST, "the launcher was killed")


def parse_look(text: str) -> Look | None:
    """``state|reason|time left`` of squeue."""
    fields = text.strip().split("|")
    if len(fields) != 3:
        return None
    return Look(fields[0], fields[1], parse_time_left(fields[2]))


def parse_time_left(text: str) -> float | None:
    """Seconds of squeue's ``[days-][hours:]minutes:seconds``; None for UNLIMITED and anything that is no time."""
    match = _TIME_LEFT.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def parse_ending(text: str, started: float) -> Ending | None:
    """The end of the record, of sacct's ``State|Start|End`` lines, that was running at ``started``."""
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 3 or not (fields[1].isdigit() and fields[2].isdigit()):
            continue  # it has not ended
        state, begin, end = fields[0].split(), int(fields[1]), int(fields[2])
        # Nodes' clocks differ a little from that of slurmctld; starts of a job lie seconds apart.
        if state and begin - 2 <= started <= end + 2:
            return _ENDS.get(state[0], _REQUEUED)
    return None


def is_no_answer(error: str) -> bool:
    """Whether what SLURM's programs print means that slurmctld was not reached, so that asking again may help."""
    words = error.lower()
    return any(part in words for part in ("unable to contact", "timed out", "connection refused", "connect failure"))


def _ask(*command: str, **variables: str) -> subprocess.CompletedProcess[str] | None:
    """Run one of SLURM's programs; None if it cannot be run or does not end in time."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_TIMEOUT_S,
            check=False,
            env={**os.environ, **variables},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
