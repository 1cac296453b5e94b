"""Forecasts: runs that are alike, in proportion to their epochs; what was never measured is counted as unknown."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.forecast import Forecast, Measured, Planned, forecast


def config(method: str = "isd", *, epochs: int = 10, seed: int = 0, batch_size: int = 256) -> dict[str, Any]:
    return {
        "method": {"name": method},
        "backbone": {"name": "resnet18"},
        "data": {"name": "cifar10", "root": f"/somewhere/{seed}"},
        "train": {"epochs": epochs, "batch_size": batch_size, "precision": "fp32"},
        "seed": seed,
    }


def test_time_is_in_proportion_to_the_epochs_and_averaged_over_like_runs() -> None:
    measured = [Measured(config(seed=0), 100.0), Measured(config(seed=1), 300.0)]
    found = forecast([Planned(config(epochs=20, seed=2), gpus=4)], measured)
    assert found == Forecast(1, 0, pytest.approx(400.0), pytest.approx(400.0 * 4 / 3600))


def test_runs_of_another_kind_say_nothing() -> None:
    measured = [Measured(config("moco_v2"), 100.0), Measured(config(batch_size=512), 100.0)]
    assert forecast([Planned(config(), gpus=0)] * 3, measured) == Forecast(0, 3, 0.0, 0.0)
