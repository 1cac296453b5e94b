"""Run directories that tests share: real ones, as small as they can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers.config import SCHEMA_VERSION, RunConfig
from trainers.rundir import RunDir

MakeRun = Callable[..., RunDir]

RUN_ID = "0123456789ab"

#: MoCo v2 on 96 digits: 2 epochs of 3 steps, a second or so.
TINY: dict[str, Any] = {
    "method": {"name": "moco_v2", "queue_size": 64, "bn_group_size": 8, "projection_dim": 16},
    "data": {"name": "digits", "profile": {"name": "balanced", "size": 100}},
    "backbone": {"name": "resnet18", "width": 4},
    "train": {"epochs": 2, "batch_size": 32, "learning_rate": 0.06},
    "evaluate": {"knn": {"k": [5, 1], "bank": "train", "every_epochs": 1}},
    "runtime": {"log_every_steps": 2},
}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write the spec of the tiny run, with changes, in a workspace: ``make_run("name", {"train.epochs": 3})``."""

    def make(workspace: str, changes: dict[str, Any] | None = None) -> RunDir:
        config: dict[str, Any] = json.loads(json.dumps(TINY))
        for key, value in (changes or {}).items():
            *sections, name = key.split(".")
            section = config
            for part in sections:
                section = section[part]
            section[name] = value
        run_dir = RunDir(tmp_path / workspace / "runs" / RUN_ID)
        run_dir.path.mkdir(parents=True)
        spec = {
            "schema_version": SCHEMA_VERSION,
            "run_id": RUN_ID,
            "config": RunConfig.model_validate(config).model_dump(mode="json"),
            "provenance": {},
        }
        run_dir.spec_path.write_text(json.dumps(spec))
        return run_dir

    return make


@pytest.fixture
def numbers_of() -> Callable[[RunDir], dict[str, Any]]:
    """Everything that a finished run has computed, without clocks and speeds: equal runs have equal numbers."""

    def read(run_dir: RunDir) -> dict[str, Any]:
        result = run_dir.read_result()
        assert result is not None, f"{run_dir.path} has no result"
        lines = [
            (line.step, line.epoch, {k: v for k, v in line.metrics.items() if not k.startswith("system/")})
            for line in run_dir.read_metrics()
        ]
        return {
            "encoder": run_dir.encoder_path.read_bytes(),
            "lines": lines,
            "result": {k: v for k, v in result.to_json().items() if k not in ("finished", "metrics_offset")},
        }

    return read
