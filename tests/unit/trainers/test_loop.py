"""One step of the loop: parts of a batch add up to the whole, and nothing else changes by them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainers.batch import Batch
from trainers.build import build, read_spec
from trainers.journal import Journal, StatusFile
from trainers.loop import Diverged, save, train_step
from trainers.methods.base import Method, Progress
from trainers.optimizers import build_optimizer
from trainers.rundir import RunDir
from trainers.training import Training

MakeRun = Callable[..., RunDir]


class Regression(Method):
    """Linear regression of the labels on the pixels; its loss is a mean over images, so that parts add up exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 1).double()
        self.seen: list[tuple[int, int, int]] = []
        self.ended: list[int] = []

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append((progress.step, progress.part, len(batch.labels)))
        output = self.linear(batch.views[0].double().flatten(1))
        errors = output.squeeze(1) - batch.labels
        return errors.square().mean(), {"error": errors.abs().mean().detach()}

    def after_step(self, progress: Progress) -> None:
        self.ended.append(progress.step)

    def encoders(self) -> dict[str, nn.Module]:
        return {"student": self.linear}


@pytest.fixture
def start(make_run: MakeRun) -> Callable[..., Training]:
    """A run of the tiny size at its first step, with the regression in place of its method."""

    def started(workspace: str, changes: dict[str, Any]) -> Training:
        options = {
            "method": {"name": "supervised"},
            "train.learning_rate": 0.01,
            "train.schedule": {"name": "step"},
            **changes,
        }
        run_dir = make_run(workspace, options)
        journal = Journal(StatusFile(run_dir.status_path, 1))
        training = build(run_dir, read_spec(run_dir), journal, 1, lambda: False)
        torch.manual_seed(0)
        training.method = training.model = Regression()
        training.optimizer = build_optimizer(training.method.parameters(), training.config.train)
        return training

    return started


def run(training: Training) -> dict[str, Tensor]:
    """One epoch; the weights and the means of what was logged."""
    for batch in training.loader.epoch(0):
        train_step(training, batch)
    logged = {name: torch.tensor(mean) for name, mean in training.means.gather().means().items()}
    return {**training.method.state_dict(), **logged}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-6, atol=1e-9, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("parts", [2, 4, 16])
def test_parts_of_a_batch_add_up_to_the_whole(start: Callable[..., Training], parts: int, clip: float | None) -> None:
    options = {"train.clip_gradient_norm": clip}
    whole = start("whole", options)
    in_parts = start("parts", {**options, "train.accumulation": parts})
    assert_close(run(in_parts), run(whole))
    method = in_parts.method
    assert isinstance(method, Regression)
    assert method.seen == [(step, part, 32 // parts) for step in range(3) for part in range(parts)]
    assert method.ended == [0, 1, 2]


def test_without_accumulation_a_step_is_forward_backward_and_update(start: Callable[..., Training]) -> None:
    training = start("run", {})
    reference = Regression()
    reference.load_state_dict(training.method.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    for batch in training.loader.epoch(0):
        optimizer.zero_grad()
        loss, _ = reference(batch, training.progress)
        loss.backward()
        optimizer.step()
    run(training)
    assert torch.equal(training.method.linear.weight, reference.linear.weight)  # type: ignore[union-attr]


def test_gradients_are_averaged_over_ranks_once_a_step(start: Callable[..., Training], process_group: None) -> None:
    training = start("run", {"train.accumulation": 4})
    alone = start("alone", {"train.accumulation": 4})
    model = DistributedDataParallel(training.method)
    buckets = []

    # DDP reads the annotations, which therefore must not be strings.
    def count(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        buckets.append(bucket.index())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    model.register_comm_hook(None, count)
    training.model = model
    assert_close(run(training), run(alone))
    assert buckets == [0, 0, 0], "one bucket in each of three steps"


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_images_may_come_with_their_channels_last(start: Callable[..., Training]) -> None:
    layouts: list[bool] = []

    def note(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        layouts.extend(view.is_contiguous(memory_format=torch.channels_last) for view in arguments[0].views)

    plain, last = start("plain", {}), start("last", {"runtime.channels_last": True, "train.accumulation": 2})
    last.method.register_forward_pre_hook(note)
    assert_close(run(last), run(plain))
    assert layouts == [True] * 6, "two parts of three batches"


def test_a_weight_that_is_not_finite_is_not_saved(start: Callable[..., Training]) -> None:
    """The loss of the last step was finite, and there is no next one to show it."""
    training = start("run", {})
    method = training.method
    assert isinstance(method, Regression)
    with torch.no_grad():
        method.linear.bias.fill_(torch.inf)
    with pytest.raises(Diverged, match=r"after step 0: a weight is not finite; lower train\.learning_rate=0\.01"):
        save(training)
    assert training.run_dir.checkpoint_dirs() == []


def test_labels_reach_the_method(start: Callable[..., Training]) -> None:
    training = start("run", {})
    losses = []
    for _ in range(3):
        training.means.reset()
        losses.append(float(run(training)["loss"]))
    assert losses[2] < 0.7 * losses[0]
