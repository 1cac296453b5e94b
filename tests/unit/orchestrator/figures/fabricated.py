"""Run directories with everything that figures are drawn from, made up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.report import build_report
from orchestrator.report.model import Report
from orchestrator.runs import ExperimentView, ReportOptions, RunView
from orchestrator.state import RunState
from trainers.config import ISD, RunConfig
from trainers.rundir import Manifest, Result, RunDir, atomic

NAMED = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CONFIG = RunConfig(method=ISD()).model_dump(mode="json")


@dataclass(frozen=True, kw_only=True)
class Fabricated:
    """A made-up run.

    Attributes:
        epochs: that it was trained for; k-NN every second one.
        blocks: of its vision transformer, 0 for another network.
        networks: suffixes of the networks that were evaluated.
        is_finished: it has a result; else a checkpoint after ``epochs``.
        has_evidence: confusion matrices and an embedding.
    """

    classes: Sequence[str] = NAMED
    epochs: int = 4
    blocks: int = 3
    networks: Sequence[str] = ("", "_teacher")
    level: float = 60.0
    is_long_tailed: bool = True
    is_finished: bool = True
    has_evidence: bool = False

    @property
    def counts(self) -> list[int]:
        """Training images of each class, from 500 down to 5."""
        last = max(1, len(self.classes) - 1)
        return [round(500 * 0.01 ** (place / last)) if self.is_long_tailed else 50 for place in range(last + 1)]

    def metrics(self) -> dict[str, float]:
        """Final values: the teacher is 2 points ahead, and blocks get better one by one."""
        found = {"train/loss": 1.0}
        for network in self.networks:
            top1 = self.level + (2.0 if network else 0.0)
            found |= {f"eval/knn{network}/top1": top1, f"eval/linear{network}/top1": top1 + 5}
            found |= {f"eval/knn{network}/{group}": top1 + by for group, by in _GROUPS.items()}
            found |= {
                f"eval/knn_layer{block}{network}/top1": top1 - self.blocks + block
                for block in range(1, self.blocks + 1)
            }
        return found

    def write(self, path: Path) -> RunDir:
        """The run's directory."""
        run_dir = RunDir(path)
        run_dir.path.mkdir(parents=True)
        atomic.write_json(run_dir.spec_path, {"config": _CONFIG})
        lines = [line for epoch in range(1, self.epochs + 1) for line in self._lines(epoch)]
        run_dir.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if self.is_finished:
            atomic.write_json(run_dir.result_path, self._result(run_dir).to_json())
        else:
            folder = run_dir.checkpoints_dir / f"step_{self.epochs}"
            folder.mkdir(parents=True)
            atomic.write_json(folder / "manifest.json", _manifest(run_dir, self.epochs).to_json())
        if self.has_evidence:
            self._write_evidence(run_dir)
        return run_dir

    def _lines(self, epoch: int) -> Iterable[dict[str, object]]:
        for part in (0.5, 1.0):
            at = epoch - 1 + part
            yield line(at, {"train/loss": 3.0 - at / self.epochs, "train/lr": 0.03})
        if epoch % 2 == 0:
            yield line(epoch, {f"eval/knn{n}/top1": self.level + epoch + (2.0 if n else 0.0) for n in self.networks})

    def _result(self, run_dir: RunDir) -> Result:
        places = range(len(self.classes))
        accuracies = {name: max(0.0, self.level - 20 * place / len(places)) for place, name in enumerate(self.classes)}
        return Result(
            run_id=run_dir.path.name,
            steps=self.epochs,
            epochs=self.epochs,
            metrics=self.metrics(),
            per_class={f"knn{network}": accuracies for network in self.networks},
            class_counts=dict(zip(self.classes, self.counts, strict=True)),
            groups={name: list(_GROUPS)[3 * place // len(places)] for place, name in enumerate(self.classes)},
            metrics_offset=run_dir.metrics_path.stat().st_size,
        )

    def _write_evidence(self, run_dir: RunDir) -> None:
        number = len(self.classes)
        run_dir.evaluation_dir.mkdir()
        names = np.array(self.classes)
        matrix = np.eye(number, dtype=np.int64) * 6 + 1
        for network in self.networks:
            np.savez_compressed(run_dir.confusion_path(f"knn{network}"), matrix=matrix, classes=names)
        labels = np.arange(200) % number
        points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32) + labels[:, None]
        np.savez_compressed(
            run_dir.embedding_path, points=points, labels=labels, classes=names, method=np.array("t-SNE")
        )


_GROUPS = {"many": 10.0, "medium": 0.0, "few": -15.0}


def line(epoch: float, metrics: dict[str, float]) -> dict[str, object]:
    """One line of a metrics file."""
    return {"step": round(epoch * 2), "epoch": epoch, "time": 1e9 + epoch, "metrics": metrics}


def _manifest(run_dir: RunDir, epochs: int) -> Manifest:
    return Manifest(
        run_id=run_dir.path.name,
        step=epochs,
        epoch=epochs,
        metrics_offset=run_dir.metrics_path.stat().st_size,
        files={},
        attempt=1,
        time=0.0,
    )


def reported(
    folder: Path, runs: dict[tuple[str, str, int], Fabricated]
) -> tuple[Report, ExperimentView, list[RunView]]:
    """The report on runs by method, profile and seed, with what it was made from."""
    views = []
    for position, ((method, profile, seed), run) in enumerate(runs.items()):
        run_dir = run.write(folder / f"{position:012x}")
        axes = {"method": method, "data.profile": profile, "seed": str(seed)}
        state = RunState.COMPLETED if run.is_finished else RunState.RUNNING
        views.append(RunView(run_dir.path.name, position, axes, state, "", "local", "", 1, run_dir))
    experiment = ExperimentView(
        "made-up", "", Path("made-up.yaml"), ("method", "data.profile", "seed"), ReportOptions()
    )
    return build_report(experiment, views), experiment, views
