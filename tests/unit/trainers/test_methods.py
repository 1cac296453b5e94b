"""What holds for every method: its gradients, state and logs, that it learns, and that its options do something."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_methods import BATCH, METHODS, NUM_CLASSES, VIT, batch, batch_for, build, run_config, take_steps
from trainers import config as options
from trainers.batch_norm import GroupBatchNorm, SyncBatchNorm
from trainers.methods import build_method
from trainers.methods.base import Progress
from trainers.methods.student_teacher import StudentTeacher
from trainers.optimizers import build_optimizer


def as_numbers(logged: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    return [{key: value.item() for key, value in logs.items()} for logs in logged]


def is_untrained_by_design(name: str) -> bool:
    """Teachers; MoCo v3's patch projection; the offset that SimCLR's last norm does not have."""
    return "teacher" in name or "patch_projection" in name or name == "student.projector.7.bias"


@pytest.mark.parametrize("name", METHODS)
def test_every_trained_parameter_has_a_gradient_and_no_other_has(name: str) -> None:
    """DistributedDataParallel waits for ever for a gradient that does not come."""
    config = run_config(name)
    method = build(name)
    take_steps(method, config, 1)
    for parameter_name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        assert parameter.requires_grad != is_untrained_by_design(parameter_name), parameter_name


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_the_networks_and_the_logs_are_plain_numbers(name: str) -> None:
    method = build(name)
    encoders = method.encoders()
    before = {role: [p.clone() for p in network.parameters()] for role, network in encoders.items()}
    for logs in take_steps(method, run_config(name), 2):
        for key, value in logs.items():
            assert value.shape == (), key
            assert value.isfinite(), key
            assert not value.requires_grad, key
    for role, network in encoders.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[role], network.parameters(), strict=True)), role


@pytest.mark.parametrize("name", METHODS)
def test_every_method_improves_its_own_objective(name: str) -> None:
    """In 8 epochs of 4 steps, measured when the queue has been filled. Of SDSSL, whose loss grows a term: L_out."""
    fast = {"momentum": 0.9, "queue_size": 32, "bn_group_size": 8} if name != "sdssl_simclr" else {}
    method_options = METHODS[name].model_copy(update={k: v for k, v in fast.items() if hasattr(METHODS[name], k)})
    config = run_config(method_options, VIT, batch_size=16, optimizer=options.AdamW(), learning_rate=3e-3)
    method = build_method(config, NUM_CLASSES)
    optimizer = build_optimizer(method.parameters(), config.train)
    objective = []
    for step in range(32):
        progress = Progress(step, 32, 4)
        loss, logs = method(batch_for(config, seed=step % 4), progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(progress)
        objective.append(logs.get("loss_out", loss).item())
    assert sum(objective[-4:]) < 0.8 * sum(objective[4:8])


@pytest.mark.parametrize("name", METHODS)
def test_state_is_complete_and_the_next_steps_are_the_same_bit_for_bit(name: str) -> None:
    config = run_config(name)
    straight = build(name)
    take_steps(straight, config, 2)
    resumed = build(name, seed=1)
    resumed.load_state_dict(straight.state_dict())
    # The seed that draws the shuffles comes with the configuration, not with the weights.
    if isinstance(resumed, StudentTeacher):
        resumed.seed = config.seed
    torch.manual_seed(99)
    assert as_numbers(take_steps(straight, config, 2)) == as_numbers(take_steps(resumed, config, 2))


@pytest.mark.parametrize("name", METHODS)
def test_initial_state_depends_on_the_runs_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = build(name).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build(name).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = build(name, seed=1).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", [*METHODS, "random"])
def test_encoders_give_representations_and_the_papers_comes_first(name: str) -> None:
    method = build(options.Random() if name == "random" else name)
    encoders = method.encoders()
    if name in ("simclr", "sdssl_simclr", "supervised", "random"):
        assert list(encoders) == ["student"]
    else:
        assert list(encoders) == (["teacher", "student"] if name.startswith("sdssl") else ["student", "teacher"])
    for encoder in encoders.values():
        out = encoder.eval()(torch.randn(3, 3, 8, 8))
        assert out.shape == (3, 16 if name.startswith("sdssl") else 32)


@pytest.mark.parametrize("name", METHODS)
def test_embedders_are_the_encoders_with_their_projectors(name: str) -> None:
    method = build(name)
    embedders = method.embedders()
    if name == "supervised":
        assert not embedders
        return
    assert list(embedders) == list(method.encoders())
    widths = {"moco_v1": 8, "moco_v2": 8, "moco_v2_symmetric": 8, "isd": 32, "isd_plus": 8, "byol_asym": 8}
    for embedder in embedders.values():
        assert embedder.eval()(torch.randn(3, 3, 8, 8)).shape == (3, widths.get(name, 6))


def test_a_random_encoder_has_nothing_to_train() -> None:
    assert not build(options.Random()).is_trained
    assert build("supervised").is_trained


@pytest.mark.parametrize("name", METHODS)
def test_networks_run_under_autocast_with_losses_in_float32(name: str) -> None:
    method = build(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss, logs = method(batch_for(run_config(name)), Progress(1, 10, 5))
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in logs.values())
    loss.backward()
    method.after_step(Progress(1, 10, 5))


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("sdssl")])
def test_resnets_take_batch_statistics_as_the_method_does(name: str) -> None:
    """A plain batch norm would take them over one process' share, whatever the method says."""
    norms = [m for m in build(name).modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    expected = GroupBatchNorm if hasattr(METHODS[name], "bn_group_size") else SyncBatchNorm
    assert len(norms) >= 20
    assert {type(norm) for norm in norms} == {expected}


# --- what the options do ---------------------------------------------------------------------------------------------

#: Another value of every option but those that choose views.
CHANGES: dict[str, dict[str, Any]] = {
    "moco_v1": {
        "queue_size": 32,
        "temperature": 0.2,
        "momentum": 0.5,
        "momentum_end": 0.0,
        "projection_dim": 5,
        "symmetric": True,
        "bn_group_size": None,
        "shuffle_keys": False,
    },
    "moco_v3": {
        "temperature": 1.0,
        "momentum": 0.5,
        "momentum_end": None,
        "projector_layers": 2,
        "projection_dim": 5,
        "hidden_dim": 9,
        "predictor_hidden_dim": 9,
        "predictor_last_norm": False,
        "teacher_update": "after_step",
    },
    "isd": {
        "queue_size": 32,
        "teacher_temperature": 0.1,
        "student_temperature": 0.1,
        "momentum": 0.5,
        "momentum_end": 0.0,
        "projector": True,
        "queue_init": "columns",
        "bn_group_size": 2,
        "shuffle_keys": False,
    },
    "simclr": {
        "temperature": 0.5,
        "projector_layers": 2,
        "hidden_dim": 9,
        "projection_dim": 5,
        "hidden_norm": False,
        "last_norm": False,
        "directions": "mean",
    },
    "byol": {
        "momentum": 0.5,
        "momentum_end": None,
        "projection_dim": 5,
        "hidden_dim": 9,
        "predictor_hidden_dim": 9,
        "symmetric": False,
        "teacher_init": "independent",
        "teacher_update": "before_keys",
    },
    "byol_asym": {"momentum": 0.5, "momentum_end": 0.0, "bn_group_size": 2, "shuffle_keys": False},
}
CHANGES["moco_v2"] = CHANGES["moco_v1"] | {"temperature": 0.5, "hidden_dim": 9}
#: Options that choose views, and the one that acts with several processes only (test_world_size.py).
OTHERS = {"teacher_view": "weak", "student_view": "weak", "color_strength": 0.5, "gather_gradient": "local"}


@pytest.mark.parametrize("name", CHANGES)
def test_no_option_is_left_out_here(name: str) -> None:
    assert set(CHANGES[name]) == set(type(METHODS[name]).model_fields) - {"name", *OTHERS}


@functools.cache
def losses_of_three_steps(method: options.Method) -> list[float]:
    return [logs["loss"].item() for logs in take_steps(build(method), run_config(method), 3)]


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in CHANGES for option in CHANGES[name]])
def test_an_option_changes_the_numbers(name: str, option: str) -> None:
    changed = METHODS[name].model_copy(update={option: CHANGES[name][option]})
    assert changed != METHODS[name]
    assert losses_of_three_steps(changed) != losses_of_three_steps(METHODS[name])


@pytest.mark.parametrize("name", ["isd", "byol_asym", "simclr"])
def test_an_option_changes_the_views(name: str) -> None:
    of_views = set(type(METHODS[name]).model_fields) & set(OTHERS) - {"gather_gradient"}
    assert of_views
    for option in of_views:
        assert METHODS[name].model_copy(update={option: OTHERS[option]}).views() != METHODS[name].views()


# --- labels ----------------------------------------------------------------------------------------------------------


def test_supervised_loss_is_the_cross_entropy_of_the_labels() -> None:
    method = build("supervised", VIT)
    one_view = batch(views=1)
    scores = method.classifier(method.student(one_view.views[0])).log_softmax(1)
    expected = -torch.stack([row[label] for row, label in zip(scores, one_view.labels, strict=True)]).mean()
    loss, logs = method(one_view, Progress(0, 10, 5))
    torch.testing.assert_close(loss, expected)
    assert logs["accuracy"].item() == (scores.argmax(1) == one_view.labels).sum().item() / BATCH
    assert method.classifier.out_features == 4
