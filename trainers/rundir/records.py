"""What the files of a run directory hold, as frozen records with one reading and one writing each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self


class Phase(StrEnum):
    """What the trainer is doing, or how it ended."""

    STARTING = "starting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    DONE = "done"
    STOPPED = "stopped"


class StopReason(StrEnum):
    """Why a trainer stopped before its end."""

    PREEMPTED = "preempted"
    """Asked to stop by a signal; a checkpoint was written and the run can go on."""
    CONFIG = "config"
    """The configuration cannot work. Trying again will not help."""
    DATA = "data"
    """The data set is missing, damaged or too small. Trying again will not help."""
    DIVERGED = "diverged"
    """The loss is not finite. Trying again will not help."""
    ERROR = "error"
    """Anything else, such as a failing node. Trying again may help."""

    @property
    def is_permanent(self) -> bool:
        """Whether another attempt would end in the same way."""
        return self in (StopReason.CONFIG, StopReason.DATA, StopReason.DIVERGED)


class Record:
    """A dataclass that is stored as a JSON object. Keys that this version does not know are ignored."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: item for key, item in value.items() if key in known})


@dataclass(frozen=True, kw_only=True)
class Status(Record):
    """``status.json``: where the trainer is. Written by rank 0, replaced whole.

    Attributes:
        attempt: number of the attempt that writes.
        step: optimizer steps done, of ``total_steps``.
        epoch: epochs done, fractional.
        images_per_s: training images per second of all ranks together, over the last interval.
        reason, message: set when ``phase`` is stopped.
        heartbeat: seconds since the Unix epoch at the time of writing.
    """

    phase: Phase
    attempt: int
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    images_per_s: float = 0.0
    loss: float | None = None
    reason: StopReason | None = None
    message: str = ""
    heartbeat: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        reason = value.get("reason")
        return super().from_json(
            {**value, "phase": Phase(value["phase"]), "reason": StopReason(reason) if reason else None}
        )


@dataclass(frozen=True, kw_only=True)
class Metric(Record):
    """One line of ``metrics.jsonl``: the values measured at one step, with the trainer's own time of measuring."""

    step: int
    epoch: float
    time: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    """``result.json``: its presence is what *completed* means.

    Attributes:
        metrics: final value of every metric, by name.
        untrained: the same evaluation of the encoder before its first step; empty if not asked for.
        per_class: protocol and network -> class name -> accuracy in percent, in class order.
        class_counts: class name -> training images of the run, in class order.
        groups: class name -> ``many``, ``medium`` or ``few``.
        dataset: name, digest of the index list, numbers of images.
        protocols: what was evaluated: key of each protocol -> digest of its settings
            (:meth:`trainers.config.Evaluate.protocols`).
        warnings: what a reader of the numbers must know, such as a collapsed encoder; one sentence each.
        metrics_offset: length of ``metrics.jsonl`` in bytes that this result stands for.
        finished: seconds since the Unix epoch.
    """

    run_id: str
    steps: int
    epochs: int
    metrics: dict[str, float]
    untrained: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    class_counts: dict[str, int] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    metrics_offset: int = 0
    finished: float = 0.0

    def holds(self, protocols: Mapping[str, str]) -> bool:
        """Whether everything that is asked for was evaluated, with just these settings."""
        return protocols.items() <= self.protocols.items()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return super().from_json({**value, "warnings": tuple(value.get("warnings", ()))})


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """``checkpoints/step_<n>/manifest.json``: what a complete checkpoint consists of, written after its files.

    Attributes:
        run_id: the run that the checkpoint belongs to; a checkpoint of another run is refused.
        step, epoch: optimizer steps and (fractional) epochs done.
        metrics_offset: length of ``metrics.jsonl`` in bytes at this step. On resume the file is cut back to it, so
            everything before the newest manifest's offset is final and may be collected.
        files: file name -> {"size": bytes, "sha256": hex digest}.
        attempt: the attempt that wrote it.
        time: seconds since the Unix epoch.
    """

    run_id: str
    step: int
    epoch: float
    metrics_offset: int
    files: dict[str, dict[str, Any]]
    attempt: int
    time: float


@dataclass(frozen=True, kw_only=True)
class Claim(Record):
    """``claims/<token>.json``: the one launcher that may act for a submission. Created exclusively, never changed.

    ``pid``, ``create_time`` (seconds since the Unix epoch, as psutil gives it), ``host`` and ``boot_id`` together name
    one process for ever, although process ids come back. A claim of no process revokes the submission: no launcher may
    act for it any more.
    """

    token: str
    pid: int
    create_time: float
    host: str
    boot_id: str

    @property
    def is_revocation(self) -> bool:
        return self.pid == 0


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Record):
    """``claims/<token>.early.json``: a search found the run worse than others, and ended it before its last step.

    Attributes:
        token: the submission that ended here.
        rule: what decided, such as ``asha``.
        metric, value: by what, and what it was at ``step``, which ``epoch`` (fractional) epochs are.
        time: seconds since the Unix epoch.
    """

    token: str
    rule: str
    metric: str
    value: float
    step: int
    epoch: float
    time: float = 0.0

    @property
    def sentence(self) -> str:
        """For people: the reason of the run's state."""
        return f"stopped early at epoch {self.epoch:g} by {self.rule} ({self.metric} {self.value:.4g})"


@dataclass(frozen=True, kw_only=True)
class RankFailure(Record):
    """``attempts/<n>/rank_<r>.failure.json``: what ended one rank. Written by the rank, or for it if it was killed.

    Attributes:
        rank: global rank.
        reason: as in :class:`Status`; never ``preempted``.
        message: one sentence for the user.
        is_consequence: the rank failed because it lost another one, whose own account matters more.
        time: seconds since the Unix epoch.
    """

    rank: int
    reason: StopReason
    message: str
    is_consequence: bool = False
    time: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return super().from_json({**value, "reason": StopReason(value["reason"])})


@dataclass(frozen=True, kw_only=True)
class AttemptRecord(Record):
    """``attempts/<n>/attempt.json``: one start of the run. Written by the launcher of the first node.

    Attributes:
        token: the submission that this attempt belongs to.
        job_id: the backend's name for the job (a process id for ``local``).
        hosts: names of the nodes, first node first.
        devices: GPUs of the first node, as CUDA_VISIBLE_DEVICES numbers them; empty on CPU.
        processes: ranks over all nodes.
        command: the torchrun command line.
        started, ended: seconds since the Unix epoch; ``ended`` is None while the attempt lives.
        exit_code: what the launcher returned: 0, 75 (resumable) or 1.
        cause: ``done``, ``preempted``, ``failed`` or another cause of :class:`orchestrator.state.Cause`.
        detail: one sentence for the user.
        first_step, last_step: steps done when the attempt began and ended, for "no progress" decisions.
    """

    number: int
    token: str
    backend: str
    job_id: str
    hosts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    processes: int = 1
    command: tuple[str, ...] = ()
    started: float = 0.0
    ended: float | None = None
    exit_code: int | None = None
    cause: str = ""
    detail: str = ""
    first_step: int = 0
    last_step: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        lists = {key: tuple(value.get(key, ())) for key in ("hosts", "devices", "command")}
        return super().from_json({**value, **lists})
