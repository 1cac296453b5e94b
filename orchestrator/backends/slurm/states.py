"""SLURM's words for the state of a job, and what they mean for us. Pure, and total: every word has a meaning."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.state import Cause, JobState


@dataclass(frozen=True)
class Meaning:
    """What a word says.

    Attributes:
        cause: why the job ended. None if it has not, or if the run directory knows better: an exit code says little.
        note: for people; empty if the state alone says it.
    """

    state: JobState
    cause: Cause | None = None
    note: str = ""


_PENDING, _RUNNING, _ENDED = JobState.PENDING, JobState.RUNNING, JobState.ENDED
_MEANINGS = {
    "PENDING": Meaning(_PENDING),
    "REQUEUED": Meaning(_PENDING, note="requeued"),
    "REQUEUE_FED": Meaning(_PENDING, note="requeued by the federation"),
    "REQUEUE_HOLD": Meaning(_PENDING, note="requeued and held"),
    "SPECIAL_EXIT": Meaning(_PENDING, note="requeued and held, after an exit code that the site treats specially"),
    "RESV_DEL_HOLD": Meaning(_PENDING, note="held, because its reservation was deleted"),
    "EXPEDITING": Meaning(_PENDING, note="requeued with priority"),
    # From here on nodes are allocated: to cancel means to stop a running job.
    "CONFIGURING": Meaning(_RUNNING, note="its nodes are being prepared"),
    "POWER_UP_NODE": Meaning(_RUNNING, note="its nodes are being switched on"),
    "RUNNING": Meaning(_RUNNING),
    "COMPLETING": Meaning(_RUNNING, note="its processes are being ended"),
    "STAGE_OUT": Meaning(_RUNNING, note="its files are being copied from the burst buffer"),
    "SIGNALING": Meaning(_RUNNING),
    "RESIZING": Meaning(_RUNNING, note="being resized"),
    "SUSPENDED": Meaning(_RUNNING, note="suspended by SLURM; goes on by itself, or by `scontrol resume`"),
    "STOPPED": Meaning(_RUNNING, note="stopped by a signal (SIGSTOP); its CPUs are kept"),
    "COMPLETED": Meaning(_ENDED),
    # No cause: the job exits like this when it gave up a run, but also when SLURM's own signals ended its script.
    "FAILED": Meaning(_ENDED, note="the job failed; its log says more"),
    "CANCELLED": Meaning(_ENDED, Cause.CANCELLED, "cancelled"),
    # Another attempt would be refused: the deadline that the user gave to sbatch is over.
    "DEADLINE": Meaning(_ENDED, Cause.CANCELLED, "its deadline was over (sbatch's deadline)"),
    "TIMEOUT": Meaning(_ENDED, Cause.TIMEOUT, "its time limit was over"),
    "NODE_FAIL": Meaning(_ENDED, Cause.NODE_FAIL, "a node failed"),
    "BOOT_FAIL": Meaning(_ENDED, Cause.NODE_FAIL, "a node could not be started"),
    "LAUNCH_FAILED": Meaning(_ENDED, Cause.NODE_FAIL, "a node could not launch the job"),
    "RECONFIG_FAIL": Meaning(_ENDED, Cause.NODE_FAIL, "a node could not be configured for the job"),
    "OUT_OF_MEMORY": Meaning(_ENDED, Cause.OUT_OF_MEMORY, "it used more memory than resources.memory"),
    "PREEMPTED": Meaning(_ENDED, Cause.PREEMPTED, "preempted"),
    "REVOKED": Meaning(
        JobState.UNKNOWN, note="moved to another cluster of the federation, which is not seen from here"
    ),
}
#: Words of ends that, while slurmctld still holds the job, may be followed by a requeue.
PASSING = frozenset({"PREEMPTED", "LAUNCH_FAILED", "RECONFIG_FAIL"})


def meaning(words: str) -> Meaning:
    """What a state means, as squeue or sacct print it (``CANCELLED by 1000``, ``CANCELLED+``)."""
    word = (words.split() or [""])[0].rstrip("+").upper()
    return _MEANINGS.get(word) or Meaning(JobState.UNKNOWN, note=f"SLURM says {words.strip()!r}, which is not known")
