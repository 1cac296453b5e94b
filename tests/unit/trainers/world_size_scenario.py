"""What one process of W does in test_world_size.py: everything whose result must not depend on W.

Run as ``python world_size_scenario.py RANK W RENDEZVOUS_FILE RESULT_FILE``.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.tiny_methods import METHODS as TINY
from tests.tiny_methods import NUM_CLASSES, batch_for
from tests.tiny_methods import run_config as tiny_config
from trainers import config as options
from trainers.batch import Batch
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

#: Every method in every form, and what else the number of processes could touch: parts of a batch, groups of the size
#: of the batch, and SimCLR and SDSSL with the gather's gradient that does depend on it.
METHODS: dict[str, options.Method] = {
    **{
        name: method.model_copy(update={"queue_size": 48} if hasattr(method, "queue_size") else {})
        for name, method in TINY.items()
    },
    "moco_v2_parts": options.MoCoV2(queue_size=48, bn_group_size=4, projection_dim=8, symmetric=True),
    "moco_v3_parts": TINY["moco_v3"],
    "moco_v2_one_group": options.MoCoV2(queue_size=48, bn_group_size=None, projection_dim=8),
    "simclr_local": TINY["simclr"].model_copy(update={"gather_gradient": "local"}),
    "sdssl_simclr_local": TINY["sdssl_simclr"].model_copy(update={"gather_gradient": "local"}),
}
State = dict[str, Any]


def run_config(name: str) -> options.RunConfig:
    return tiny_config(METHODS[name], batch_size=BATCH, epochs=2, accumulation=2 if name.endswith("_parts") else 1)


def train(name: str, start: State | None = None) -> dict[str, Any]:
    """A few steps as the training loop takes them: losses of the global batch, and all that is left at the end.

    In float64: a tiny network with groups of four is chaotic, and would turn float32's rounding into a difference of
    1e-3 after four steps. A wrong gradient, order or statistic would show just the same.

    Args:
        start: what an earlier call has left under ``halfway``, to go on from there; None begins at step 0.
    """
    config = run_config(name)
    parts = config.train.accumulation
    method = build_method(config, NUM_CLASSES).double()
    model = DistributedDataParallel(method, forward_sync_buffers=False) if world_size() > 1 else method
    optimizer = build_optimizer(method.parameters(), config.train)
    results: dict[str, Any] = {}
    if start is not None:
        method.load_state_dict(start["method"])
        optimizer.load_state_dict(start["optimizer"])
    logged: dict[str, list[Tensor]] = {}
    for step in range(0 if start is None else STEPS // 2, STEPS):
        if step == STEPS // 2:
            state = {"method": method.state_dict(), "optimizer": optimizer.state_dict()}
            results[f"{name}/halfway"] = copy.deepcopy(state)
        views, labels = batch_for(config, seed=step, dtype=torch.float64)
        mine = Batch(tuple(local_share(view) for view in views), local_share(labels))
        size = len(mine.labels) // parts
        optimizer.zero_grad()
        for part in range(parts):
            rows = slice(part * size, (part + 1) * size)
            is_last = part == parts - 1
            with contextlib.nullcontext() if is_last or world_size() == 1 else model.no_sync():
                piece = Batch(tuple(view[rows] for view in mine.views), mine.labels[rows])
                loss, logs = model(piece, Progress(step, 2 * STEPS, STEPS, part))
                (loss / parts).backward()
            for key, value in {"loss": loss.detach(), **logs}.items():
                logged.setdefault(key, []).append(gather_interleaved(value[None]).mean())
        optimizer.step()
        method.after_step(Progress(step, 2 * STEPS, STEPS))
    results |= {f"{name}/log/{key}": torch.stack(values) for key, values in logged.items()}
    return results | {f"{name}/state/{key}": value for key, value in method.state_dict().items()}


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
    own, gradients = torch.arange(BATCH).unsqueeze(1), []
    for gradient in ("summed", "local"):
        mine = local_share(x).clone().requires_grad_()
        everyone = gather_with_gradient(mine, gradient)
        # In-batch contrast where keys carry gradient too, as in SimCLR; the sum over ranks of local sums.
        logits = mine @ everyone.T / 0.5
        F.cross_entropy(logits, local_share(own).squeeze(1), reduction="sum").backward()
        gradients.append(gather_interleaved(mine.grad))
    images = torch.arange(BATCH * 2.0).view(BATCH, 2)
    order = key_permutation(BATCH, seed=3, step=7)
    return {
        "gather/interleaved": gather_interleaved(local_share(numbers)),
        "gather/gradient": gradients[0],
        "gather/local_gradient": gradients[1],
        "gather/unshuffled": forward_shuffled(lambda rows: rows, local_share(images), order),
        "gather/images": images,
        "gather/numbers": numbers,
    }


def refusals() -> list[str]:
    """What a run that cannot be divided among the processes is answered."""
    messages = []
    for batch, accumulation in ((BATCH, 1), (BATCH + 1, 1), (BATCH + 2, 2)):
        config = options.RunConfig(
            method=options.MoCoV2(queue_size=batch, bn_group_size=batch // accumulation),
            train=options.Train(batch_size=batch, accumulation=accumulation),
        )
        try:
            build_method(config, NUM_CLASSES)
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
