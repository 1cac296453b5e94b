"""What one process of W does in test_world_size.py: everything whose result must not depend on W.

Run as ``python world_size_scenario.py RANK W RENDEZVOUS_FILE RESULT_FILE``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainers import config as options
from trainers.batch_norm import GroupBatchNorm, SyncBatchNorm, average_running_statistics
from trainers.distributed import (
    forward_shuffled,
    gather_interleaved,
    gather_with_gradient,
    key_permutation,
    local_batch_size,
    local_share,
    world_size,
)
from trainers.methods import build_method
from trainers.methods.base import Progress
from trainers.optimizers import build_optimizer

BATCH, STEPS = 16, 4

HEADS: dict[str, Any] = {
    "projection_dim": 8,
    "hidden_dim": 16,
    "intermediate_hidden_dim": 12,
    "predictor_hidden_dim": 16,
}
METHODS: dict[str, tuple[options.Method, options.Backbone]] = {
    "moco": (
        options.MoCoV2(queue_size=48, bn_group_size=4, projection_dim=16, symmetric=True),
        options.ResNet18(width=4),
    ),
    "isd": (options.ISD(queue_size=48, bn_group_size=4, projector=True), options.ResNet18(width=4)),
    "sdssl": (options.SDSSL(**HEADS), options.ViTTiny(width=16, heads=2, depth=3)),
}


def run_config(name: str) -> options.RunConfig:
    method, backbone = METHODS[name]
    return options.RunConfig(
        method=method, backbone=backbone, train=options.Train(batch_size=BATCH, learning_rate=0.05, epochs=2)
    )


def train(name: str) -> dict[str, Tensor]:
    """A few steps as the training loop takes them: losses of the global batch, and all that is left at the end.

    In float64: a tiny network with groups of four is chaotic, and would turn float32's rounding into a difference of
    1e-3 after four steps. A wrong gradient, order or statistic would show just the same.
    """
    config = run_config(name)
    method = build_method(config).double()
    model = DistributedDataParallel(method, forward_sync_buffers=False) if world_size() > 1 else method
    optimizer = build_optimizer(method.parameters(), config.train)
    logged: dict[str, list[Tensor]] = {}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(2, BATCH, 3, 8, 8, generator=generator, dtype=torch.float64)
        progress = Progress(step, 2 * STEPS, STEPS)
        optimizer.zero_grad()
        loss, logs = model(local_share(images[0]), local_share(images[0] + 0.3 * images[1]), progress)
        loss.backward()
        optimizer.step()
        method.after_step(progress)
        for key, value in {"loss": loss.detach(), **logs}.items():
            logged.setdefault(key, []).append(gather_interleaved(value[None]).mean())
    curves = {f"{name}/log/{key}": torch.stack(values) for key, values in logged.items()}
    return curves | {f"{name}/state/{key}": value for key, value in method.state_dict().items()}


def normalise(norm: nn.Module, name: str) -> dict[str, Tensor]:
    """Output, gradients and running statistics of a batch-norm layer, of the global batch."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, BATCH, 5, 2, 2, generator=generator, dtype=torch.float64)
    norm = norm.double()
    norm.weight.data.copy_(torch.randn(5, generator=generator, dtype=torch.float64))
    norm.bias.data.copy_(torch.randn(5, generator=generator, dtype=torch.float64))
    mine = (3 * local_share(x) + 1).requires_grad_()
    out = norm(mine)
    (out * local_share(weight)).sum().backward()
    average_running_statistics(norm)
    return {
        f"{name}/out": gather_interleaved(out),
        f"{name}/gradient": gather_interleaved(mine.grad),
        # DDP averages these over ranks; their sum is what the sum of the ranks' losses has.
        f"{name}/weight_gradient": gather_interleaved(norm.weight.grad[None]).sum(0),
        f"{name}/bias_gradient": gather_interleaved(norm.bias.grad[None]).sum(0),
        f"{name}/running_mean": norm.running_mean,
        f"{name}/running_var": norm.running_var,
    }


def gathers() -> dict[str, Tensor]:
    numbers = torch.arange(BATCH * 3).view(BATCH, 3)
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(BATCH, 4, generator=generator, dtype=torch.float64), dim=1)
    mine = local_share(x).clone().requires_grad_()
    everyone = gather_with_gradient(mine)
    # In-batch contrast where keys carry gradient too, as in SimCLR; the sum over ranks of local sums.
    own = torch.arange(BATCH).unsqueeze(1)
    logits = mine @ everyone.T / 0.5
    F.cross_entropy(logits, local_share(own).squeeze(1), reduction="sum").backward()
    images = torch.arange(BATCH * 2.0).view(BATCH, 2)
    order = key_permutation(BATCH, seed=3, step=7)
    return {
        "gather/interleaved": gather_interleaved(local_share(numbers)),
        "gather/gradient": gather_interleaved(mine.grad),
        "gather/unshuffled": forward_shuffled(lambda rows: rows, local_share(images), order),
        "gather/images": images,
        "gather/numbers": numbers,
    }


def refusals() -> list[str]:
    """What a run that cannot be divided among the processes is answered."""
    messages = []
    for batch, group in ((BATCH, BATCH), (BATCH + 1, BATCH + 1)):
        config = options.RunConfig(
            method=options.MoCoV2(queue_size=batch, bn_group_size=group), train=options.Train(batch_size=batch)
        )
        try:
            build_method(config)
        except ValueError as error:
            messages.append(str(error))
    return messages


def scenario() -> dict[str, Any]:
    """All results of this process; the same on every rank and for every world size, ``refusals`` excepted."""
    torch.set_num_threads(1)
    torch.manual_seed(1000 * local_batch_size(BATCH))  # nothing may depend on this
    results: dict[str, Any] = {"refusals": refusals()}
    results |= gathers() | normalise(GroupBatchNorm(5, group_size=4), "group") | normalise(SyncBatchNorm(5), "sync")
    for name in METHODS:
        results |= train(name)
    return results


def main(rank: int, world: int, rendezvous: Path, result: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    torch.save(scenario(), result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
