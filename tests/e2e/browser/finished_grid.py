"""A grid whose runs are all over: the files of each, as a trainer leaves them, with curves that tell methods apart."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from orchestrator.experiment import Cell, load_experiment
from orchestrator.spec import RunSpec
from orchestrator.workspace import Workspace
from trainers.rundir import AttemptRecord, Metric, Result, RunDir, atomic

NAME = "digits-lt"
EXPERIMENT = f"""\
name: {NAME}
base:
  data: {{name: digits}}
  backbone: {{name: resnet18, stem: small, width: 4}}
  train: {{epochs: 20, batch_size: 64}}
  evaluate: {{knn: {{k: [20]}}}}
grid:
  method: [moco_v2, isd, byol]
  data.profile:
    - {{name: balanced, match_imbalance: 10}}
    - {{name: long_tailed, imbalance: 10}}
  seed: [0, 1, 2]
report:
  rows: method
  columns: data.profile
  metrics: [eval/knn/top1, eval/knn/many, eval/knn/medium, eval/knn/few]
  over: seed
"""
#: k-NN accuracy in percent that each method comes to on balanced data.
PLATEAUS = {"moco_v2": 88.0, "isd": 91.0, "byol": 84.0}
#: What a seed adds to it, beginning at another one for each method: seeds are no luck that methods share.
SEEDS = (0.0, 0.7, -0.5)
#: What of it is lost on long-tailed data, by group.
LOSSES = {"many": 0.5, "medium": 3.0, "few": 12.0}
CLASSES = {str(number): group for number, group in enumerate(["many"] * 4 + ["medium"] * 3 + ["few"] * 3)}
STEPS = 160
_START = 1_700_000_000.0


@dataclass(frozen=True)
class FinishedRun:
    """What a run measured.

    Attributes:
        groups: many, medium, few -> accuracy in percent.
    """

    cell: Cell
    groups: dict[str, float]

    @classmethod
    def of(cls, cell: Cell) -> FinishedRun:
        is_balanced = cell.axes["data.profile"].startswith("balanced")
        method = cell.axes["method"]
        best = PLATEAUS[method] + SEEDS[(int(cell.axes["seed"]) + len(method)) % len(SEEDS)]
        return cls(cell, {group: best - (0.0 if is_balanced else loss) for group, loss in LOSSES.items()})

    @property
    def name(self) -> str:
        """As in MLflow."""
        return f"{self.cell.axes['method']} · {self.cell.axes['data.profile']} · seed={self.cell.axes['seed']}"

    @property
    def top1(self) -> float:
        """Final k-NN accuracy in percent."""
        return self.accuracies(1)["eval/knn/top1"]

    @property
    def per_class(self) -> dict[str, float]:
        return {name: self.groups[group] for name, group in CLASSES.items()}

    def accuracies(self, share: float) -> dict[str, float]:
        """Metrics of k-NN after this share of the training, in percent."""
        learnt = 1 - 0.6 * math.exp(-5 * share)
        top1 = sum(self.per_class.values()) / len(CLASSES)
        values = {"top1": top1, **self.groups}
        return {f"eval/knn/{name}": round(learnt * value, 2) for name, value in values.items()}

    def write(self, run_dir: RunDir, folder: Path) -> None:
        """Everything that a completed run leaves, last of all its result."""
        began = _START + 200 * self.cell.index
        run_dir.attempt_dir(1).mkdir(parents=True)
        run_dir.checkpoints_dir.mkdir()
        atomic.write_json(run_dir.spec_path, RunSpec.of(self.cell.config, {}, folder).to_json())
        counts = {name: round(50 * 10 ** (-int(name) / 9)) for name in CLASSES}
        record = {"name": "digits", "label": "", "digest": "d" * 32, "num_train": sum(counts.values())}
        atomic.write_json(run_dir.dataset_path, {**record, "class_counts": counts, "groups": CLASSES})
        attempt = AttemptRecord(
            number=1, token="t", backend="local", job_id="4711", started=began, ended=began + STEPS, cause="done"
        )
        atomic.write_json(run_dir.attempt_path(1), attempt.to_json())
        run_dir.rank_log_path(1, 0).write_text("training\n")
        with open(run_dir.metrics_path, "w") as file:
            for step in range(8, STEPS + 1, 8):
                line = Metric(step=step, epoch=step / 8, time=began + step, metrics=self._measured(step))
                file.write(json.dumps(line.to_json()) + "\n")
        save_file({"conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, run_dir.encoder_path)
        result = Result(
            run_id=self.cell.run_id,
            steps=STEPS,
            epochs=20,
            metrics=self._measured(STEPS),
            untrained=self.accuracies(0),
            per_class={"knn": self.per_class},
            class_counts=counts,
            groups=CLASSES,
            dataset=record,
            protocols=self.cell.config.evaluate.protocols(),
            metrics_offset=run_dir.metrics_path.stat().st_size,
            finished=began + STEPS,
        )
        atomic.write_json(run_dir.result_path, result.to_json())

    def _measured(self, step: int) -> dict[str, float]:
        loss = 1 + 400 / (PLATEAUS[self.cell.axes["method"]] + step)
        system = {"system/images_per_s": 500.0 + step % 16}
        return {"train/loss": loss, **system, **self.accuracies(step / STEPS)}


def write_grid(workspace: Workspace, file: Path) -> list[FinishedRun]:
    """Write the experiment file and the directories of its runs."""
    file.write_text(EXPERIMENT)
    runs = [FinishedRun.of(cell) for cell in load_experiment(file).cells()]
    for run in runs:
        run.write(workspace.run_dir(run.cell.run_id), file.parent)
    return runs
