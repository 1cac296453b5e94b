"""What a job asks of SLURM about itself: its state, the time it has left, how it ended before, and its requeue.

Looking comes back empty rather than fail: slurmctld may be restarting, and a job must not die of that.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from orchestrator.backends.slurm import commands, states
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.errors import EnvironmentProblem
from orchestrator.retry import Ending
from orchestrator.state import Cause

_TIME_LEFT = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")

#: Why a launcher was killed, where accounting has no word for it: somebody, or SLURM, wanted the job to start again.
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
            CommandFailed: scontrol cannot tell.
        """
        return tuple(commands.run("scontrol", "show", "hostnames", self.nodelist).split())

    def address(self) -> str:
        """The first node's address, by which SLURM itself reaches it from the other nodes.

        Raises:
            EnvironmentProblem: scontrol cannot tell, or the name is not known on this node.
        """
        fields = commands.run("scontrol", "--oneliner", "show", "node", self.node).split()
        address = next((field.removeprefix("NodeAddr=") for field in fields if field.startswith("NodeAddr=")), "")
        try:
            socket.getaddrinfo(address, None)
        except OSError as error:
            raise EnvironmentProblem(
                f"the address {address!r} that SLURM has for node {self.node} cannot be found: {error.strerror}; "
                "name the network between the nodes by backend.interface"
            ) from error
        return address

    def look(self) -> Look | None:
        """The job now; None if slurmctld does not answer."""
        asked = ("--noheader", f"--jobs={self.job_id}", "--states=all", "--format=%T|%r|%L")
        try:
            return parse_look(commands.run("squeue", *asked))
        except CommandFailed:
            return None

    def requeue(self) -> None:
        """Ask for the requeue.

        Raises:
            CommandFailed: SLURM has something against it, or does not answer.
        """
        commands.run("scontrol", "requeue", self.job_id)

    def clear_nice(self) -> None:
        """Let the job, whenever it is requeued, go ahead of the array's elements that never started.

        Raises:
            CommandFailed: as above.
        """
        commands.run("scontrol", "update", f"JobId={self.job_id}", "Nice=0")

    def ending_before(self, started: float) -> Ending:
        """How the start of this job that was under way at ``started`` (seconds since the Unix epoch) came to its end.

        Asks accounting, and makes do without it.
        """
        asked = ("-D", "-X", "-n", "-P", "-j", self.job_id, "--format=State,Start,End")
        try:
            found = parse_ending(commands.run("sacct", *asked), started)
        except CommandFailed:
            found = None
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
        # Nodes' clocks differ a little from that of slurmctld; starts of a job lie seconds apart.
        if int(fields[1]) - 2 <= started <= int(fields[2]) + 2:
            seen = states.meaning(fields[0])
            if seen.cause is None or seen.cause is Cause.CANCELLED:
                return replace(_REQUEUED, moment=float(fields[2]))  # after all, it was started again
            return Ending(seen.cause, f"{seen.note}; the launcher was killed", moment=float(fields[2]))
    return None
