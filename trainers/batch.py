"""What the loader delivers and a method is trained on."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """This rank's share of a global batch: rank r of W holds the images r, r + W, r + 2W, ... of it.

    Attributes:
        views: one or two tensors (B / W, 3, H, W), as many as the method's options name views: views of the same
            images, in the same order.
        labels: (B / W,), int64, class numbers. For supervised methods alone.
    """

    views: tuple[Tensor, ...]
    labels: Tensor

    def parts(self, count: int) -> list[Batch]:
        """As ``count`` equal batches, in order.

        The first part of every rank together is the first part of the global batch, and so on.
        """
        views = zip(*(view.chunk(count) for view in self.views), strict=True)
        return [Batch(part, labels) for part, labels in zip(views, self.labels.chunk(count), strict=True)]
