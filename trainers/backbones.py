"""Networks from images to one vector: ResNet-18 and a vision transformer.

Owns the architectures and their initialisation. Leaves batch normalisation's grouping (:mod:`trainers.batch_norm`)
and everything after the representation (:mod:`trainers.heads`) to others.

Initial weights are drawn from torch's default generator alone, in the order of construction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import config as options

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


def build_backbone(
    backbone: options.ResNet18 | options.ViTTiny, image_size: int, norm: NormFactory = nn.BatchNorm2d
) -> Backbone:
    """The network that ``backbone`` names, freshly initialised.

    Args:
        backbone: architecture and its options.
        image_size: side of the square images in pixels; a vision transformer is built for this size only.
        norm: makes the batch normalisation of a ResNet. A vision transformer has none.
    """
    if isinstance(backbone, options.ResNet18):
        return ResNet18(stem=backbone.stem, width=backbone.width, norm=norm)
    return VisionTransformer(
        image_size=image_size,
        patch_size=backbone.patch_size,
        depth=backbone.depth,
        dim=backbone.width,
        heads=backbone.heads,
        frozen_patch_projection=backbone.frozen_patch_projection,
    )


# --- ResNet ----------------------------------------------------------------------------------------------------------


class ResNet18(Backbone):
    """ResNet-18 (He et al. 2016, arXiv 1512.03385) without its classifier.

    With the ImageNet stem and width 64, the names and shapes of ``state_dict()`` and the outputs are those of
    torchvision's ``resnet18`` without ``fc``.

    Args:
        stem: ``imagenet`` is a 7x7 convolution of stride 2 and max-pooling; ``small`` a 3x3 convolution of stride 1
            (padding 1) alone, for images of about 32 pixels.
        width: channels of the first stage; the representation is 8 times as wide.
        norm: makes a normalisation layer from a number of channels.
    """

    def __init__(self, *, stem: str, width: int = 64, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__()
        self.dim = 8 * width
        if stem == "small":
            self.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = norm(width)
        self.layer1 = _stage(width, width, 1, norm)
        self.layer2 = _stage(width, 2 * width, 2, norm)
        self.layer3 = _stage(2 * width, 4 * width, 2, norm)
        self.layer4 = _stage(4 * width, 8 * width, 2, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 8 * width): the global average of the last stage."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class _BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), norm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


def _stage(channels_in: int, channels: int, stride: int, norm: NormFactory) -> nn.Sequential:
    return nn.Sequential(
        _BasicBlock(channels_in, channels, stride, norm),
        _BasicBlock(channels, channels, 1, norm),
    )


# --- vision transformer ----------------------------------------------------------------------------------------------

#: Wavelengths of the position embedding run from 2 pi to 2 pi times this (MoCo v3).
_POSITION_TEMPERATURE = 10_000.0


class VisionTransformer(Backbone):
    """A ViT (arXiv 2010.11929) with the stable initialisation of MoCo v3 (arXiv 2104.02057, section 4).

    Pre-norm blocks, MLP four times as wide, biases everywhere, LayerNorm with eps 1e-6, fixed positions, one CLS token
    and no dropout. The representation is the CLS token after the final LayerNorm.

    https://github.com/facebookresearch/moco-v3/blob/c349e6e/vits.py

    Args:
        image_size: side of the images in pixels, a multiple of ``patch_size``.
        patch_size: side of a patch in pixels.
        depth: number of blocks.
        dim: width of a token, a multiple of ``heads`` and of 4.
        heads: attention heads.
        frozen_patch_projection: the patch projection keeps its random weights (MoCo v3 found training unstable else).
    """

    positions: Tensor

    def __init__(
        self, *, image_size: int, patch_size: int, depth: int, dim: int, heads: int, frozen_patch_projection: bool
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide image_size={image_size}")
        self.dim = dim
        self.depth = depth
        self.patch_projection = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("positions", sincos_positions(image_size // patch_size, dim), persistent=False)
        self.blocks = nn.ModuleList(_TransformerBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self._initialise()
        self.patch_projection.requires_grad_(not frozen_patch_projection)

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # Query, key and value share one matrix for speed; each is drawn as the square matrix that it is.
                for part in module.weight.chunk(3 if name.endswith(".qkv") else 1):
                    nn.init.xavier_uniform_(part)
                nn.init.zeros_(module.bias)
        fan_in, fan_out = math.prod(self.patch_projection.weight.shape[1:]), self.dim
        bound = math.sqrt(6 / (fan_in + fan_out))  # Xavier's, of the projection seen as a matrix over whole patches
        nn.init.uniform_(self.patch_projection.weight, -bound, bound)
        assert self.patch_projection.bias is not None
        nn.init.zeros_(self.patch_projection.bias)
        nn.init.normal_(self.cls_token, std=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, dim): the CLS token after the final LayerNorm."""
        normed: Tensor = self.norm(self._cls_tokens(images)[-1])
        return normed

    def forward_layers(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (depth, B, dim): the CLS token after every block, each through the same final LayerNorm.

        The last layer equals :meth:`forward`.
        """
        normed: Tensor = self.norm(torch.stack(self._cls_tokens(images)))
        return normed

    def _cls_tokens(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the CLS token after each block, (B, dim) each."""
        x, cls_tokens = self._tokens(images), []
        for number, block in enumerate(self.blocks, start=1):
            # Nobody reads the last block's patches, and computing its CLS token alone gives the same value.
            x = block(x, num_outputs=1 if number == self.depth else None)
            cls_tokens.append(x[:, 0])
        return cls_tokens

    def _tokens(self, images: Tensor) -> Tensor:
        patches = self.patch_projection(images).flatten(2).transpose(1, 2)  # (B, P, dim), row by row
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches + self.positions], dim=1)


def sincos_positions(grid: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions of a square grid of patches.

    Args:
        grid: patches per side.
        dim: width of a token, a multiple of 4.

    Returns:
        (grid * grid, dim), rows in reading order: sine and cosine of the column, then of the row, a quarter each.
    """
    quarter = dim // 4
    frequencies = _POSITION_TEMPERATURE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.outer(torch.arange(grid, dtype=torch.float64), frequencies)  # (grid, quarter)
    columns, rows = angles.repeat(grid, 1), angles.repeat_interleave(grid, 0)
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1).float()


class _TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, num_outputs: int | None = None) -> Tensor:
        """(B, T, dim) -> the first ``num_outputs`` tokens, all for None."""
        x = x[:, :num_outputs] + self.attention(self.norm1(x), num_outputs)
        transformed: Tensor = x + self.mlp(self.norm2(x))
        return transformed


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, num_outputs: int | None = None) -> Tensor:
        # (B, T, 3 * dim) -> three tensors (B, heads, T, dim / heads)
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query[:, :, :num_outputs], key, value)
        projected: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return projected
