"""Runs that a search suggests while others run: what a study is, and the files by which a suggestion becomes a run.

A study is the search in one cell of a grid. Its first samples are known beforehand; each later one is a file in
``<workspace>/studies/<study>/``, created exclusively before anything is started for it. So every number is suggested
once, whichever drivers and controllers die or work at once, and all of them go on from the same files.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from orchestrator.experiment import Cell, Experiment, Resources
from orchestrator.experiment.cells import check_world_size
from orchestrator.experiment.nodes import spelled
from orchestrator.experiment.search import Scalar
from orchestrator.spec import run_id
from orchestrator.workspace import Workspace
from trainers.config import RunConfig, canonical_json
from trainers.rundir import RunDir, atomic


@dataclass(frozen=True)
class KnownSample:
    """A sample that is known beforehand, as a run."""

    run_id: str
    values: Mapping[str, Scalar]


@dataclass(frozen=True)
class Study:
    """The search in one cell of the grid.

    Attributes:
        id: follows from the cell, the space and the metric: studies of one id are one.
        space: axis -> distribution, as written.
        samples: runs in all; the first ``startup`` of them are known beforehand.
        metric, mode: what is optimised, and whether to its ``max`` or ``min``.
        axes: the labels of the cell, without the sampled axes.
        resources: what each run asks for, as JSON.
        position: place of the first sample in the experiment.
        known: those of the known samples that the experiment has.
    """

    id: str
    space: Mapping[str, Mapping[str, Any]]
    samples: int
    startup: int
    metric: str
    mode: str
    axes: Mapping[str, str]
    resources: Mapping[str, Any]
    position: int
    known: tuple[KnownSample, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "known": tuple(KnownSample(**sample) for sample in value["known"])})

    @property
    def numbers(self) -> range:
        """Numbers of the samples that are suggested."""
        return range(self.startup, self.samples)

    def labels(self, values: Mapping[str, Scalar]) -> dict[str, str]:
        """Axis -> label of a sample."""
        return {**self.axes, **{axis: spelled(value) for axis, value in values.items()}}


def studies_of(experiment: Experiment) -> list[Study]:
    """The studies of an experiment whose search does more than to sample at random; none without one.

    Raises:
        InputError: a run is not valid.
    """
    search = experiment.search
    if search is None or (search.sampler == "random" and search.stop is None):
        return []
    cells: dict[int, list[Cell]] = {}
    for cell in experiment.cells():
        if cell.sample is not None:
            cells.setdefault(cell.sample.cell, []).append(cell)
    return [_study(experiment, number, samples) for number, samples in cells.items()]


def _study(experiment: Experiment, number: int, cells: Sequence[Cell]) -> Study:
    search, first = experiment.search, cells[0]
    assert search is not None and first.sample is not None, "only sampled cells are studied"
    sampled = first.sample.values
    space = {axis: search.space[axis] for axis in sampled}
    text = canonical_json([first.run_id, space, search.metric, search.mode])
    return Study(
        id=hashlib.sha256(text.encode()).hexdigest()[:12],
        space=space,
        samples=search.samples,
        startup=search.known_samples,
        metric=search.metric,
        mode=search.mode,
        axes={axis: label for axis, label in first.axes.items() if axis not in sampled},
        resources=first.resources.model_dump(mode="json"),
        position=number * search.samples,
        known=tuple(KnownSample(cell.run_id, cell.sample.values) for cell in cells if cell.sample is not None),
    )


def search_section(
    search: Mapping[str, Any] | None, studies: Sequence[Study], run_ids: Collection[str], workspace: Path
) -> dict[str, Any] | None:
    """What the manifest of a submission says of a search: None if none concerns its runs.

    Args:
        search: the experiment's section of that name, as JSON.
        run_ids: of the submission.
    """
    concerned = []
    for study in studies:
        suggested = (found.run_id for found in StudyDir(study, workspace).suggestions())
        if any(run_id in run_ids for run_id in (*(sample.run_id for sample in study.known), *suggested)):
            concerned.append(study.to_json())
    if search is None or not concerned:
        return None
    return {"metric": search["metric"], "mode": search["mode"], "stop": search["stop"], "studies": concerned}


def position_of(cell: Cell, samples: int) -> int:
    """Place of a cell in its experiment, with room for samples that are suggested later."""
    return cell.index if cell.sample is None else cell.sample.cell * samples + cell.sample.number


@dataclass(frozen=True)
class Suggestion:
    """One suggested sample.

    Attributes:
        run_id: empty if no valid run was found for this number.
        config: of the run, as it will stand in spec.json.
        token: of the trial that it was suggested for; empty if a controller is to submit it like any other run.
        why: for people, where there is no run.
    """

    number: int
    run_id: str
    values: Mapping[str, Scalar] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    token: str = ""
    why: str = ""


@dataclass(frozen=True)
class StudyDir:
    """The files of one study."""

    study: Study
    workspace: Path

    @property
    def path(self) -> Path:
        """One file for each suggestion, named by its number."""
        return self.workspace / "studies" / self.study.id

    @property
    def _pause_path(self) -> Path:
        return self.path / "paused"

    @property
    def is_paused(self) -> bool:
        """Whether nothing is to be suggested at present, because the user has stopped the experiment."""
        return self._pause_path.exists()

    def pause(self) -> None:
        """Have drivers suggest no more."""
        if not self.is_paused:
            self.path.mkdir(parents=True, exist_ok=True)
            self._pause_path.touch()

    def go_on(self) -> None:
        """Take :meth:`pause` back."""
        self._pause_path.unlink(missing_ok=True)

    def suggestions(self) -> list[Suggestion]:
        """Everything suggested so far, in the order of the numbers, up to the samples that are asked for."""
        values = (atomic.read_json(self.path / f"{number}.json") for number in self.study.numbers)
        return [Suggestion(**value) for value in values if value is not None]

    def add(self, suggestion: Suggestion) -> Suggestion:
        """Create the file of a suggestion; the one that stands, which may be another's that came first.

        Raises:
            OSError: the workspace cannot be written.
        """
        path = self.path / f"{suggestion.number}.json"
        if atomic.create_json_exclusively(path, asdict(suggestion)):
            return suggestion
        first = atomic.read_json(path)
        assert first is not None, f"{path} is never removed"
        return Suggestion(**first)

    def run_dir(self, run_id: str) -> RunDir:
        """The directory of a run."""
        return RunDir(self.workspace / "runs" / run_id)

    def first_spec(self) -> dict[str, Any]:
        """What ``spec.json`` says of a run that is known beforehand: all runs of a study differ in their values alone.

        Raises:
            ValueError: no such run was ever submitted.
        """
        for sample in self.study.known:
            spec = self.run_dir(sample.run_id).read_spec()
            if spec is not None:
                return spec
        raise ValueError(f"study {self.study.id} has no run in {self.workspace} that was submitted")

    def write_spec(self, suggestion: Suggestion) -> None:
        """Write what a trainer reads, unless it is there."""
        run_dir = self.run_dir(suggestion.run_id)
        if run_dir.read_spec() is None:
            run_dir.path.mkdir(parents=True, exist_ok=True)
            spec = {**self.first_spec(), "run_id": suggestion.run_id, "config": suggestion.config}
            source_diff = Workspace(self.workspace).source_diff_of(spec.get("provenance", {}))
            if source_diff is not None:
                atomic.share(source_diff, run_dir.source_diff_path)
            atomic.write_json(run_dir.spec_path, spec)

    def evidence(self) -> list[tuple[Mapping[str, Scalar], float]]:
        """(values, metric) of every sample that has ended with one, a run that was stopped early included."""
        samples = [*self.study.known, *(KnownSample(found.run_id, found.values) for found in self.suggestions())]
        found = ((sample.values, self._outcome(sample.run_id)) for sample in samples if sample.run_id)
        return [(values, value) for values, value in found if value is not None and math.isfinite(value)]

    def _outcome(self, run_id: str) -> float | None:
        result = self.run_dir(run_id).read_result()
        if result is not None:
            return result.metrics.get(self.study.metric)
        early = self.run_dir(run_id).read_early_stop()
        return early.value if early is not None and early.metric == self.study.metric else None


def config_with(study: Study, config: Mapping[str, Any], values: Mapping[str, Scalar]) -> tuple[str, dict[str, Any]]:
    """Run id and configuration of a run like the one of ``config``, but with these values.

    Raises:
        ValueError: they do not make a valid run.
    """
    changed = copy.deepcopy(dict(config))
    for axis, value in values.items():
        *sections, name = axis.split(".")
        place: dict[str, Any] = changed
        for section in sections:
            place = place[section]
        place[name] = value
    resolved = RunConfig.model_validate(changed)
    check_world_size(resolved, Resources.model_validate(study.resources))
    return run_id(resolved), resolved.model_dump(mode="json")
