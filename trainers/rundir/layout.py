"""Every file of a run directory, one property each, so that the directory can be read off this page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.rundir import atomic
from trainers.rundir.records import AttemptRecord, Claim, EarlyStop, Manifest, Metric, RankFailure, Result, Status


@dataclass(frozen=True)
class RunDir:
    """``<workspace>/runs/<run_id>/``. Reading never fails on a file that is not there yet: it answers None."""

    path: Path

    # Controller.
    @property
    def spec_path(self) -> Path:
        """The resolved run, the protocols that it is evaluated by, its schema version and provenance."""
        return self.path / "spec.json"

    @property
    def source_diff_path(self) -> Path:
        """How the source differs from the commit that ``spec.json`` names. Absent where it does not."""
        return self.path / "source.diff"

    # Trainer.
    @property
    def status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics_path(self) -> Path:
        """Append-only; valid up to the byte offset that the newest checkpoint's manifest names."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_dir(self) -> Path:
        """One folder a checkpoint, ``step_<number>``; a name without ``.tmp`` is complete."""
        return self.path / "checkpoints"

    @property
    def encoder_path(self) -> Path:
        """Weights of the trained encoder alone (student, or teacher where the method evaluates the teacher)."""
        return self.checkpoints_dir / "encoder.safetensors"

    @property
    def best_encoder_path(self) -> Path:
        """The encoder as of the best evaluation so far, where ``runtime.keep_best`` asks for it.

        Step and value are in its metadata.
        """
        return self.checkpoints_dir / "encoder_best.safetensors"

    def epoch_encoder_path(self, epoch: int) -> Path:
        """The encoder at the end of an epoch (from 1), where ``runtime.keep_every_epochs`` asks for it."""
        return self.checkpoints_dir / f"encoder_epoch_{epoch}.safetensors"

    @property
    def dataset_path(self) -> Path:
        """Index list, class histogram and digests of the images that the run trains and is evaluated on."""
        return self.path / "dataset.json"

    @property
    def indices_path(self) -> Path:
        """The index list, where it is too long for ``dataset.json``."""
        return self.path / "indices.txt"

    @property
    def evaluation_dir(self) -> Path:
        """What an evaluation leaves beside its numbers. Written before the result, by the evaluation that it is of."""
        return self.path / "evaluation"

    def confusion_path(self, protocol: str) -> Path:
        """Confusion matrix of one key of ``Result.per_class``.

        Arrays ``matrix``, int64 (classes, classes), images by true class (row) and predicted class (column), and
        ``classes``, their names.
        """
        return self.evaluation_dir / f"confusion_{protocol.replace('/', '_')}.npz"

    @property
    def embedding_path(self) -> Path:
        """Test images in the plane, where the evaluation is asked for.

        Arrays ``points``, float32 (n, 2), ``labels``, int64 (n,), ``classes``, their names, and ``method``, a string.
        """
        return self.evaluation_dir / "embedding.npz"

    @property
    def result_path(self) -> Path:
        """Final metrics. It stands while a finished run is evaluated by further protocols, and is then replaced."""
        return self.path / "result.json"

    @property
    def lock_path(self) -> Path:
        """Locked by the trainer's rank 0 for as long as it lives: two attempts never write at once."""
        return self.path / "lock"

    # Launcher.
    @property
    def attempts_dir(self) -> Path:
        return self.path / "attempts"

    def attempt_dir(self, number: int) -> Path:
        return self.attempts_dir / str(number)

    def attempt_path(self, number: int) -> Path:
        return self.attempt_dir(number) / "attempt.json"

    def rank_log_path(self, number: int, rank: int) -> Path:
        """Standard output and error of one rank, together, in the order written."""
        return self.attempt_dir(number) / f"rank_{rank}.log"

    def rank_failure_path(self, number: int, rank: int) -> Path:
        """Why one rank of an attempt failed. Absent for a rank that finished, stopped on request, or just vanished."""
        return self.attempt_dir(number) / f"rank_{rank}.failure.json"

    def launcher_log_path(self, number: int, node_rank: int = 0) -> Path:
        return self.attempt_dir(number) / f"launcher_{node_rank}.log"

    def claim_path(self, token: str) -> Path:
        """Exists from the moment a launcher starts to act for the submission ``token``."""
        return self.path / "claims" / f"{token}.json"

    def stop_path(self, token: str) -> Path:
        """Exists once nothing may be started, or started again, for the submission ``token``."""
        return self.path / "claims" / f"{token}.stop"

    def early_stop_path(self, token: str) -> Path:
        """Exists once a search has ended the submission ``token`` early: nothing is to be started for it any more."""
        return self.path / "claims" / f"{token}.early.json"

    def stop_early(self, stop: EarlyStop) -> None:
        """End a submission early: first why, then the request to stop, which whoever carries the run obeys."""
        path = self.early_stop_path(stop.token)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, stop.to_json())
        self.stop_path(stop.token).touch()

    def revoke(self, token: str, host: str) -> bool:
        """Claim a submission for nobody, so that no launcher can. False if one has claimed it before."""
        claim = Claim(token=token, pid=0, create_time=0.0, host=host, boot_id="")
        return atomic.create_json_exclusively(self.claim_path(token), claim.to_json())

    # Reading.
    def is_complete(self) -> bool:
        """Whether there is a result, and it holds every protocol that ``spec.json`` asks for."""
        result = self.read_result()
        return result is not None and result.holds((self.read_spec() or {}).get("protocols", {}))

    def checkpoint_dirs(self) -> list[Path]:
        """Complete checkpoints (by name; not verified), newest first."""
        found = [path for path in self.checkpoints_dir.glob("step_*") if path.name.removeprefix("step_").isdigit()]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)

    def committed_metrics_offset(self) -> int:
        """Bytes of the metrics file that no resume will ever cut back: what the result stands for once there is one."""
        result = self.read_result()
        if result is not None:
            return result.metrics_offset or (self.metrics_path.stat().st_size if self.metrics_path.exists() else 0)
        for folder in self.checkpoint_dirs():
            value = atomic.read_json(folder / "manifest.json")
            if value is not None:
                return Manifest.from_json(value).metrics_offset
        return 0

    def read_claim(self, token: str) -> Claim | None:
        value = atomic.read_json(self.claim_path(token))
        return None if value is None else Claim.from_json(value)

    def was_ever_stopped_early(self) -> bool:
        """Whether a search has ended a submission of the run early, also if the run has gone on since."""
        return any(self.early_stop_path("").parent.glob("*.early.json"))

    def read_early_stop(self) -> EarlyStop | None:
        """Why the run ended early; None if it did not, or has been started again since, or has a result."""
        if self.result_path.exists():
            return None
        for number in reversed(self.attempt_numbers()):
            newest = self.read_attempt(number)
            if newest is not None:
                value = atomic.read_json(self.early_stop_path(newest.token))
                return None if value is None else EarlyStop.from_json(value)
        return None

    def attempt_numbers(self) -> list[int]:
        """Numbers of all attempts so far, oldest first."""
        try:
            names = [entry.name for entry in self.attempts_dir.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdigit())

    def read_spec(self) -> dict[str, Any] | None:
        value: dict[str, Any] | None = atomic.read_json(self.spec_path)
        return value

    def read_status(self) -> Status | None:
        value = atomic.read_json(self.status_path)
        return None if value is None else Status.from_json(value)

    def read_result(self) -> Result | None:
        value = atomic.read_json(self.result_path)
        return None if value is None else Result.from_json(value)

    def read_attempt(self, number: int) -> AttemptRecord | None:
        value = atomic.read_json(self.attempt_path(number))
        return None if value is None else AttemptRecord.from_json(value)

    def read_attempts(self, since: float = 0.0) -> list[AttemptRecord]:
        """Records of the attempts that began at ``since`` (seconds since the Unix epoch) or later, oldest first."""
        records = (self.read_attempt(number) for number in self.attempt_numbers())
        return [record for record in records if record is not None and record.started >= since]

    def read_rank_failures(self, number: int) -> list[RankFailure]:
        """What the failed ranks of an attempt say, root causes first, then in the order of time."""
        values = [atomic.read_json(path) for path in self.attempt_dir(number).glob("rank_*.failure.json")]
        failures = [RankFailure.from_json(value) for value in values if value is not None]
        return sorted(failures, key=lambda failure: (failure.is_consequence, failure.time, failure.rank))

    def read_metrics(self, start: int = 0, stop: int | None = None) -> list[Metric]:
        """Complete lines of the metrics file between two byte offsets, oldest first."""
        return [Metric.from_json(line) for line in atomic.read_jsonl(self.metrics_path, start, stop)]
