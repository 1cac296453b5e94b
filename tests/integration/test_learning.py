"""Every method learns: on real images it ends clearly above the random encoder that it started from, and upright."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trainers.rundir import RunDir

QUEUE: dict[str, Any] = {"queue_size": 128, "bn_group_size": 16}
HEADS: dict[str, Any] = {"projection_dim": 64, "hidden_dim": 128, "predictor_hidden_dim": 128, "momentum": 0.95}
BLOCKS: dict[str, Any] = {"name": "sdssl", **HEADS, "intermediate_hidden_dim": 128}

#: Method and learning rate. Settings are for 285 steps of 64 digits, which is why momenta and queues are so small.
LEARNERS: dict[str, tuple[dict[str, Any], float]] = {
    "moco_v1": ({"name": "moco_v1", **QUEUE, "momentum": 0.97}, 0.12),
    "moco_v2": ({"name": "moco_v2", **QUEUE, "momentum": 0.97, "temperature": 0.1}, 0.12),
    "moco_v3": ({"name": "moco_v3", **HEADS}, 0.4),
    "isd": ({"name": "isd", **QUEUE, "momentum": 0.95, "student_temperature": 0.1}, 0.12),
    "simclr": ({"name": "simclr", "temperature": 0.2, "color_strength": 0.5}, 0.12),
    "byol": ({"name": "byol", **HEADS}, 0.12),
    "byol_asym": ({"name": "byol_asym", "bn_group_size": 16, "momentum": 0.95}, 0.05),
    "sdssl_moco_v3": ({**BLOCKS, "base": "moco_v3"}, 2e-3),
    "sdssl_byol": ({**BLOCKS, "base": "byol"}, 2e-3),
    "sdssl_simclr": (
        {**{k: v for k, v in BLOCKS.items() if k not in ("predictor_hidden_dim", "momentum")}, "base": "simclr"},
        2e-3,
    ),
    "supervised": ({"name": "supervised"}, 0.12),
}

RESNET: dict[str, Any] = {
    "backbone": {"name": "resnet18", "stem": "small", "width": 8},
    "train": {"epochs": 15, "batch_size": 64, "weight_decay": 5e-4},
}
VIT: dict[str, Any] = {
    "backbone": {"name": "vit_tiny", "patch_size": 2, "depth": 3, "width": 48, "heads": 3},
    "train": {
        "epochs": 15,
        "batch_size": 64,
        "weight_decay": 0.1,
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
    },
}
#: Digits must not be flipped, and nothing is left of eight pixels after a blur.
AUGMENT = {"crop_area": [0.5, 1.0], "flip_probability": 0.0, "blur_probability": 0.0, "solarize_probability": 0.0}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_trained_encoder_beats_the_random_one(
    make_run: Callable[..., RunDir], undisturbed: Callable[[RunDir], RunDir], name: str
) -> None:
    method, rate = LEARNERS[name]
    shape = VIT if method["name"] == "sdssl" else RESNET
    run_dir = make_run(
        "learning",
        {
            "method": method,
            "data": {"name": "digits"},
            "augment": AUGMENT,
            **shape,
            "train": {**shape["train"], "learning_rate": rate},
            "evaluate": {"knn": {"k": [20]}, "networks": "paper"},
        },
    )
    result = undisturbed(run_dir).read_result()
    assert result is not None
    assert result.metrics["eval/knn/top1"] > result.untrained["eval/knn/top1"] + 4
    # A vision transformer this small has an effective rank of 5 before it is trained, hardly above that of a collapse.
    assert shape is VIT or result.warnings == (), "the encoder has not collapsed"
