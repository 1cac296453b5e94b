"""The file by which a driver knows the runs of its submission. Light to import.

It is on disk before Ray is called and never changes. A token leads to the manifest of its submission, so that nothing
else must remember which Ray job carries which run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from orchestrator.backends.base import JobShape
from orchestrator.retry import RetryBudgets
from trainers.rundir import RunDir, atomic

_VERSION = 1

#: What the submission ids of all our Ray jobs begin with.
SUBMISSION_ID_PREFIX = "sweep-"


def bundle_of(shape: JobShape, runs_per_gpu: int, further: Mapping[str, float]) -> dict[str, float]:
    """What each node of a run asks Ray for: name -> amount; memory in bytes.

    Args:
        further: resources by the cluster's names for them.
    """
    bundle: dict[str, float] = {"CPU": float(shape.cpus)}
    if shape.gpus:
        bundle["GPU"] = shape.gpus / runs_per_gpu
    if shape.memory_mb is not None:
        bundle["memory"] = float(shape.memory_mb * 2**20)
    return {**bundle, **further}


@dataclass(frozen=True)
class TrialOptions:
    """The settings of the section ``backend`` that trials act by.

    Attributes:
        grace_s: seconds that a run has to checkpoint in after a request to stop.
        strategy: how Ray places the nodes of a run of several: ``STRICT_SPREAD``, ``SPREAD``, ``PACK`` or
            ``STRICT_PACK``.
        runs_per_gpu: runs that share a GPU, each as a fraction of it.
        bundle: further resources of each node, by the cluster's names for them.
        interface: network interface between the nodes; None is the one that leads to the first node.
    """

    grace_s: int = 30
    strategy: str = "STRICT_SPREAD"
    runs_per_gpu: int = 1
    bundle: Mapping[str, float] = field(default_factory=dict)
    interface: str | None = None


@dataclass(frozen=True)
class Manifest:
    """One submission: the runs of one Ray job.

    Attributes:
        workspace: found by where the file lies, and not written into it.
        submission: the end of every token in it.
        shapes: run id -> what the run occupies, in the order in which the runs are to begin.
        reset_at: run id -> seconds since the Unix epoch, before which attempts count against no budget; without those
            for which all count.
        max_parallel: trials at the same time; None if only the cluster's resources limit them.
        search: the section ``search`` with what its sampler and scheduler need, as
            :func:`orchestrator.studies.search_section` writes it; None where none concerns these runs.
        created: seconds since the Unix epoch, before the Ray job was submitted.
    """

    workspace: Path
    experiment: str
    submission: str
    namespace: str | None
    options: TrialOptions
    budgets: RetryBudgets
    shapes: Mapping[str, JobShape]
    reset_at: Mapping[str, float] = field(default_factory=dict)
    max_parallel: int | None = None
    search: Mapping[str, Any] | None = None
    created: float = 0.0

    @property
    def submission_id(self) -> str:
        """Ray's name for the job: chosen by us, so that sending it twice starts one."""
        return submission_id(self.submission)

    @property
    def folder(self) -> Path:
        """Everything of the submission: manifest, board, the driver's log, what Tune keeps."""
        return submission_dir(self.workspace, self.submission)

    @property
    def path(self) -> Path:
        return manifest_path(self.workspace, self.submission)

    @property
    def driver_log_path(self) -> Path:
        """What the driver prints."""
        return self.folder / "driver.log"

    @property
    def board_path(self) -> Path:
        """What the trials do: see :mod:`orchestrator.backends.ray.board`."""
        return self.folder / "trials.json"

    def token(self, run_id: str) -> str:
        """The token of a run in this submission."""
        return f"{run_id}-{self.submission}"

    def run_dir(self, run_id: str) -> RunDir:
        """The directory of a run."""
        return RunDir(self.workspace / "runs" / run_id)

    def write(self) -> None:
        """Write the file, durably. The folders are made.

        Raises:
            OSError: the workspace cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(self.path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The manifest at ``path``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another version of this program.
        """
        value = atomic.read_json(path)
        if value is None:
            raise FileNotFoundError(f"{path}: no such manifest; is the workspace mounted on this node?")
        return cls.from_json(value, path.absolute().parents[2])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON. Runs of equal shape share its text."""
        shapes: list[JobShape] = list(dict.fromkeys(self.shapes.values()))
        return {
            "version": _VERSION,
            "experiment": self.experiment,
            "submission": self.submission,
            "namespace": self.namespace,
            "options": asdict(self.options),
            "budgets": asdict(self.budgets),
            "shapes": [asdict(shape) for shape in shapes],
            "runs": {run_id: shapes.index(shape) for run_id, shape in self.shapes.items()},
            "reset_at": dict(self.reset_at),
            "max_parallel": self.max_parallel,
            "search": None if self.search is None else dict(self.search),
            "created": self.created,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], workspace: Path) -> Self:
        """The reverse of :meth:`to_json`.

        Raises:
            ValueError: another version of this program wrote it.
        """
        if value["version"] != _VERSION:
            raise ValueError(
                f"manifest of submission {value['submission']} has version {value['version']} and this program knows "
                f"{_VERSION}; use the same installation here and on the cluster"
            )
        shapes = [JobShape(**shape) for shape in value["shapes"]]
        return cls(
            workspace=workspace,
            experiment=value["experiment"],
            submission=value["submission"],
            namespace=value["namespace"],
            options=TrialOptions(**value["options"]),
            budgets=RetryBudgets(**value["budgets"]),
            shapes={run_id: shapes[index] for run_id, index in value["runs"].items()},
            reset_at=value["reset_at"],
            max_parallel=value["max_parallel"],
            search=value["search"],
            created=value["created"],
        )


def submission_dir(workspace: Path, submission: str) -> Path:
    """The folder of a submission."""
    return workspace / "ray" / submission


def manifest_path(workspace: Path, submission: str) -> Path:
    """``<workspace>/ray/<submission>/manifest.json``."""
    return submission_dir(workspace, submission) / "manifest.json"


def submission_id(submission: str) -> str:
    """Ray's name for the job of a submission."""
    return f"{SUBMISSION_ID_PREFIX}{submission}"
