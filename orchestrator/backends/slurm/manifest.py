"""The file by which the job of an array element knows its runs. Light to import: every job does so.

It is on disk before sbatch is called and never changes. A token leads to the manifests of its submission, and they to
the array and the element, so that nothing else must remember which job carries which run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from orchestrator.backends.base import JobShape, run_id_of
from orchestrator.retry import RetryBudgets
from trainers.rundir import RunDir, atomic

_VERSION = 1

#: What the names of all our jobs begin with.
JOB_NAME_PREFIX = "sweep-"


@dataclass(frozen=True)
class ContainerOptions:
    """Where the ranks run. ``mounts`` are ``SOURCE:TARGET[:ro]``; ``python`` is a name inside the image."""

    image: str
    runtime: str
    mounts: tuple[str, ...]
    python: str


@dataclass(frozen=True)
class JobOptions:
    """The settings of the section ``backend`` that the job acts by.

    Attributes:
        python: Python on the compute nodes, outside of any container.
        grace_s: seconds that a run has to checkpoint in after a request to stop.
        interface: network interface between the nodes; None is the one that leads to the first node.
        requeue: whether the job asks SLURM for its own requeue.
        runs_per_gpu: runs of an element that share each GPU.
    """

    python: str
    grace_s: int
    requeue: bool
    runs_per_gpu: int = 1
    interface: str | None = None
    container: ContainerOptions | None = None


@dataclass(frozen=True)
class Manifest:
    """One job array.

    Attributes:
        workspace: found by where the file lies, and not written into it.
        submission: common to the arrays that are submitted together, and the end of every token in them.
        number: of the array within its submission, from 0.
        shape: what each run occupies.
        elements: tokens of the runs that each element carries out side by side.
        reset_at: run id -> seconds since the Unix epoch, before which attempts count against no budget; without those
            for which all count.
        created: seconds since the Unix epoch, before the array was submitted.
        max_parallel: slots of the whole experiment, as it was submitted; None if it has no limit.
    """

    workspace: Path
    experiment: str
    submission: str
    number: int
    shape: JobShape
    options: JobOptions
    budgets: RetryBudgets
    elements: tuple[tuple[str, ...], ...]
    reset_at: Mapping[str, float] = field(default_factory=dict)
    created: float = 0.0
    max_parallel: int | None = None

    @property
    def job_name(self) -> str:
        """By which the array is found in the queue and in accounting."""
        return job_name(self.submission, self.number)

    @property
    def path(self) -> Path:
        return manifest_path(self.workspace, self.submission, self.number)

    @property
    def log_dir(self) -> Path:
        """Where the batch scripts of the array print: ``<array job id>_<index>.log``."""
        return self.path.with_name(f"{self.number}.logs")

    def run_dir(self, token: str) -> RunDir:
        """The directory of the run that ``token`` was made for."""
        return RunDir(self.workspace / "runs" / run_id_of(token))

    def write(self) -> None:
        """Write the file, durably. The folders are made.

        Raises:
            OSError: the workspace cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(self.path, (json.dumps(self.to_json(), separators=(",", ":")) + "\n").encode())

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
        """Plain JSON; of the tokens only the run ids are written."""
        return {
            "version": _VERSION,
            "experiment": self.experiment,
            "submission": self.submission,
            "number": self.number,
            "shape": asdict(self.shape),
            "options": asdict(self.options),
            "budgets": {"restarts": dict(self.budgets.restarts), "without_progress": self.budgets.without_progress},
            "elements": [[run_id_of(token) for token in tokens] for tokens in self.elements],
            "reset_at": dict(self.reset_at),
            "created": self.created,
            "max_parallel": self.max_parallel,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], workspace: Path) -> Self:
        """The reverse of :meth:`to_json`.

        Raises:
            ValueError: another version of this program wrote it.
        """
        if value["version"] != _VERSION:
            raise ValueError(
                f"manifest of array {value['submission']}/{value['number']} has version {value['version']} and this "
                f"program knows {_VERSION}; use the same installation on login and compute nodes"
            )
        options = JobOptions(**value["options"])
        if options.container is not None:
            container: Mapping[str, Any] = value["options"]["container"]
            options = replace(
                options, container=ContainerOptions(**{**container, "mounts": tuple(container["mounts"])})
            )
        return cls(
            workspace=workspace,
            experiment=value["experiment"],
            submission=value["submission"],
            number=value["number"],
            shape=JobShape(**value["shape"]),
            options=options,
            budgets=RetryBudgets(**value["budgets"]),
            elements=tuple(
                tuple(f"{run_id}-{value['submission']}" for run_id in run_ids) for run_ids in value["elements"]
            ),
            reset_at=value["reset_at"],
            created=value["created"],
            max_parallel=value["max_parallel"],
        )


def submission_dir(workspace: Path, submission: str) -> Path:
    """The folder of all manifests of a submission."""
    return workspace / "slurm" / submission


def manifest_path(workspace: Path, submission: str, number: int) -> Path:
    """``<workspace>/slurm/<submission>/<number>.json``."""
    return submission_dir(workspace, submission) / f"{number}.json"


def job_name(submission: str, number: int) -> str:
    """SLURM's name for array ``number`` of a submission."""
    return f"{JOB_NAME_PREFIX}{submission}-{number}"
