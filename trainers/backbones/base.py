"""What the rest of the code knows of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

#: Makes the normalisation layer of a feature map with this many channels.
NormFactory = Callable[[int], nn.Module]


class Backbone(nn.Module, ABC):
    """A network from images to representations.

    Attributes:
        dim: width of the representation.
    """

    dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, dim), not normalised."""
