"""Running means of what a method logs, over steps and ranks, exact across an interruption.

Values stay on their device until they are asked for, so that logging does not make the host wait for the GPU at each
step. What has been summed since the last line of metrics is part of a checkpoint, rank by rank: a resumed run writes
the very line that it would have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """What every rank has summed up.

    Attributes:
        names: of the values, in the order of the columns.
        table: (W, len(names) + 1), float64, on the CPU. The last column is the number of images summed over.
    """

    names: tuple[str, ...]
    table: Tensor

    def is_finite(self) -> bool:
        """Whether no value since the last reset was NaN or infinite."""
        return bool(self.table.isfinite().all())

    def means(self) -> dict[str, float]:
        """Mean over all images of all ranks, by name; empty if nothing was added."""
        *sums, images = self.table.sum(dim=0).tolist()
        return {name: total / images for name, total in zip(self.names, sums, strict=True)} if images else {}


class RunningMeans:
    """Sums of one rank, weighted by numbers of images.

    Args:
        device: where the values will live.
        group: a group of all ranks for tensors on the CPU; None in a run of one process.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        self._device = device
        self._group = group
        self.reset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added since the last reset; the same on every rank."""
        return not self._names

    def reset(self) -> None:
        """Start the next means."""
        self._names: tuple[str, ...] = ()
        self._sums = torch.zeros(0, dtype=torch.float64, device=self._device)
        self._images = 0

    def add(self, values: Mapping[str, Tensor], images: int) -> None:
        """Add means over ``images`` images of this rank. The names must be the same at every step and rank."""
        row = torch.stack([value.detach().to(torch.float64) for value in values.values()]) * images
        if self.is_empty:
            self._names, self._sums = tuple(values), row
        else:
            assert self._names == tuple(values), f"a method logged {tuple(values)} after {self._names}"
            self._sums += row
        self._images += images

    def gather(self) -> Sums:
        """The sums of all ranks, the same on every rank. A collective."""
        row = torch.cat([self._sums.cpu(), torch.tensor([self._images], dtype=torch.float64)])
        if self._group is None:
            return Sums(self._names, row.unsqueeze(0))
        rows = [torch.empty_like(row) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(rows, row, group=self._group)
        return Sums(self._names, torch.stack(rows))

    def restore(self, saved: Sums, rank: int, world_size: int) -> None:
        """Continue from what :meth:`gather` gave. If the number of ranks has changed, rank 0 takes everything."""
        if len(saved.table) == world_size:
            row = saved.table[rank]
        else:
            row = saved.table.sum(dim=0) * (rank == 0)
        self._names = saved.names
        self._sums = row[:-1].to(self._device)
        self._images = int(row[-1])
