"""Dividing the rows of a computation among processes, in blocks, so that no bit of the result depends on how many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from trainers.distributed import rank, world_size


def own_rows(count: int, block: int) -> npt.NDArray[np.int64]:
    """The rows of 0 … count - 1 that this process computes: every world_size-th block of ``block`` rows, whole."""
    return np.flatnonzero(np.arange(count) // block % world_size() == rank())


def merged(rows: Tensor, places: npt.NDArray[np.int64], count: int) -> Tensor:
    """All processes' rows, each at its place, on every process. All must call.

    Args:
        rows: (n, ...), what this process computed: up to two dimensions after the first, none of them empty. Where n
            is 0 they may be anything.
        places: (n,), from :func:`own_rows`.
        count: number of rows of all processes.

    Returns:
        (count, ...).
    """
    if world_size() == 1:
        return rows
    shape = torch.zeros(2, dtype=torch.int64, device=rows.device)
    if len(places):
        shape[: rows.dim() - 1] = torch.tensor(rows.shape[1:])
    dist.all_reduce(shape, op=dist.ReduceOp.MAX)  # a process without a row does not know it
    result = torch.zeros((count, *(n for n in shape.tolist() if n)), dtype=rows.dtype, device=rows.device)
    if len(places):
        result[torch.from_numpy(places).to(rows.device)] = rows
    dist.all_reduce(result)  # every row is zero on all processes but one, and adding zeros changes no bit
    return result
