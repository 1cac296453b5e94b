"""A first-in, first-out store of the latest teacher embeddings."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """The last K embeddings of the teacher; random vectors until it has been filled once.

    Holds the same values on every rank, and goes into a checkpoint with the module that owns it.

    Attributes:
        rows: (K, D) float32; each row one embedding.
        pointer: scalar, int64: the row that is overwritten next, which is the oldest one.

    Args:
        dim: width D of an embedding.
        size: rows K.
        init: ``rows`` normalises each row of a standard normal draw. ``columns`` normalises along the other axis, as
            ISD's ResNet-18 script does; the rows are then about sqrt(D / K) long.
    """

    rows: Tensor
    pointer: Tensor

    def __init__(self, dim: int, size: int, init: Literal["rows", "columns"] = "rows") -> None:
        super().__init__()
        noise = torch.randn(size, dim)
        self.register_buffer("rows", F.normalize(noise, dim=1 if init == "rows" else 0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._staged: list[Tensor] = []

    def stage(self, *keys: Tensor) -> None:
        """Have keys enter at the next :meth:`enqueue_staged`, after those that were staged before.

        A step stages its keys while it computes its loss: the loss sees a queue without the current batch, and the
        graph of the loss holds the rows themselves, not a copy (which would be 0.26 GB at ISD's size).

        Args:
            keys: (B, D) each, as :meth:`enqueue` takes them.
        """
        self._staged.extend(keys)

    def enqueue_staged(self) -> None:
        """Enqueue what was staged, in that order. Call it after the backward pass."""
        for keys in self._staged:
            self.enqueue(keys)
        self._staged = []

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Overwrite the oldest rows.

        Args:
            keys: (B, D), unit rows of the *global* batch in its order, the same on every rank; B divides K.
        """
        size, batch = len(self.rows), len(keys)
        assert size % batch == 0, f"a queue of {size} rows cannot take batches of {batch}"
        # The pointer stays on the device: reading it would make the CPU wait for the GPU at every step.
        target = (self.pointer + torch.arange(batch, device=keys.device)) % size
        self.rows.index_copy_(0, target, keys.to(self.rows.dtype))
        self.pointer.add_(batch).remainder_(size)
