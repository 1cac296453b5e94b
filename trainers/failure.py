"""Why a rank failed, in the words that ``status.json`` and the launcher use.

One failing rank takes the others with it: they lose their peer in the middle of a collective. What the user must read
is the account of the first, so each failing rank leaves a record, and rank 0 waits a moment for a better one than its
own before it writes the status.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from trainers.best import NotMeasured
from trainers.checkpoint import CheckpointError, ForeignCheckpoint
from trainers.data import DataProblem
from trainers.loop import Diverged
from trainers.rundir import RankFailure, RunDir, StopReason, atomic

#: Seconds in which the rank that failed first has left its record, unless it was killed and could not.
_PATIENCE_S = 1.0

#: How torch names a lost peer. Most of it arrives as a plain RuntimeError.
_LOST_PEER_WORDS = ("closed by peer", "gloo", "NCCL", "ProcessGroup", "TCPStore", "rendezvous")


class ConfigProblem(Exception):
    """The run's configuration cannot work, or its spec cannot be read; the message is one sentence for the user."""


def describe(error: Exception, rank: int) -> RankFailure:
    """The record of an exception that ended a rank."""
    reason, is_consequence = _reason(error), _is_lost_peer(error)
    if is_consequence:
        message = f"rank {rank} lost another rank ({_first_line(error)})"
    elif reason is StopReason.ERROR and not isinstance(error, CheckpointError):
        message = _first_line(error)
    else:
        message = str(error)
    return RankFailure(rank=rank, reason=reason, message=message, is_consequence=is_consequence, time=time.time())


def root_cause(run_dir: RunDir, attempt: int, own: RankFailure) -> RankFailure:
    """The failure that the user must read: this rank's own, unless it only lost another rank that says more."""
    deadline = time.monotonic() + _PATIENCE_S
    while own.is_consequence and time.monotonic() < deadline:
        first = next(iter(run_dir.read_rank_failures(attempt)), own)
        if not first.is_consequence:
            return first
        time.sleep(0.05)
    return own


def record(run_dir: RunDir, attempt: int, failure: RankFailure) -> None:
    """Leave the account of a failed rank in its attempt's folder."""
    atomic.write_json(run_dir.rank_failure_path(attempt, failure.rank), failure.to_json())


def _reason(error: Exception) -> StopReason:
    match error:
        case ConfigProblem() | ForeignCheckpoint() | NotMeasured():
            return StopReason.CONFIG
        case DataProblem():
            return StopReason.DATA
        case Diverged():
            return StopReason.DIVERGED
    return StopReason.ERROR


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_lost_peer(error: Exception) -> bool:
    if not dist.is_initialized() or isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST_PEER_WORDS)
    )
