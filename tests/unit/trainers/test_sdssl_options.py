"""SDSSL's options: the defaults of each base, what each changes, and which combinations are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tiny_methods import VIT, build, run_config, take_steps
from tests.tiny_sdssl import BASES, method_options
from trainers import config as options


def test_bases_have_the_defaults_of_their_configurations() -> None:
    ratios = {base: options.SDSSL(base=base).ratio for base in BASES}
    norms = {base: options.SDSSL(base=base).last_norm for base in BASES}
    assert ratios == {"moco_v3": 1.0, "byol": 0.8, "simclr": 0.8}
    assert norms == {"moco_v3": "all", "byol": "none", "simclr": "all"}
    assert options.SDSSL(base="byol", ratio=1.0, last_norm="all").ratio == 1.0


@pytest.mark.parametrize(
    ("base", "option", "value"),
    [
        ("byol", "temperature", 0.1),
        ("simclr", "momentum", 0.9),
        ("simclr", "momentum_end", None),
        ("simclr", "teacher_update", "before_keys"),
        ("simclr", "predictor_hidden_dim", 64),
        ("simclr", "predictor_weight", 0.0),
        ("moco_v3", "average_first_step", True),
        ("byol", "intermediate_contrast", "crossed"),
        ("moco_v3", "gather_gradient", "local"),
    ],
)
def test_an_option_that_the_base_does_not_read_is_refused(base: str, option: str, value: Any) -> None:
    method = options.SDSSL.model_validate({"base": base, option: value})
    with pytest.raises(ValueError, match=rf"{option}={value} has no meaning with base={base}; it belongs to "):
        run_config(method)


@pytest.mark.parametrize(
    ("base", "option", "value"),
    [
        ("moco_v3", "temperature", 0.1),
        ("simclr", "temperature", 0.1),
        ("byol", "ratio", 0.3),
        ("simclr", "ratio", 0.3),
        ("moco_v3", "momentum", 0.5),
        ("byol", "momentum_end", None),
        ("byol", "teacher_update", "before_keys"),
        ("moco_v3", "projection_dim", 5),
        ("moco_v3", "hidden_dim", 9),
        ("byol", "intermediate_hidden_dim", 9),
        ("byol", "predictor_hidden_dim", 9),
    ],
)
def test_an_option_changes_the_numbers(base: str, option: str, value: Any) -> None:
    """The others are in the forms above, but for ``gather_gradient``, which acts with several processes only."""
    plain, changed = method_options(base), method_options(base, **{option: value})
    before, after = (take_steps(build(m), run_config(m), 3) for m in (plain, changed))
    assert [logs["loss"].item() for logs in before] != [logs["loss"].item() for logs in after]


def test_augmentation_of_a_whole_batch_is_the_views_of_2021() -> None:
    assert method_options("byol", augmentation="per_batch").views() != method_options("byol").views()


def test_a_block_before_the_last_is_needed() -> None:
    with pytest.raises(ValueError, match=r"depth=1 leaves method sdssl no block"):
        run_config("sdssl_moco_v3", VIT.model_copy(update={"depth": 1}))


def test_a_resnet_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resnet18 is none; use vit_tiny, vit_small or vit_base"):
        run_config("sdssl_simclr", options.ResNet18())


def test_norms_that_nobody_would_train_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layer_norm=per_layer gives every block a norm that method moco_v3 does not"):
        run_config("moco_v3", VIT.model_copy(update={"layer_norm": "per_layer"}))


def test_gradient_checkpointing_of_a_resnet_is_refused() -> None:
    runtime = options.Runtime(gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"gradient_checkpointing=true .* resnet18 is none; set it to false"):
        options.RunConfig(backbone=options.ResNet18(), runtime=runtime)
    options.RunConfig(backbone=VIT, method=options.SDSSL(), runtime=runtime)
