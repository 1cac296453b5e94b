"""Vision transformers whose every block can be read."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainers.backbones.base import Backbone

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
        layer_norm: what :meth:`forward_layers` puts the blocks before the last through: the final LayerNorm
            (``shared``), or one of each block's own (``per_layer``).
    """

    positions: Tensor

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        depth: int,
        dim: int,
        heads: int,
        frozen_patch_projection: bool,
        layer_norm: Literal["shared", "per_layer"] = "shared",
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide image_size={image_size}")
        self.dim = dim
        self.depth = depth
        self.patch_projection = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("positions", sincos_positions(image_size // patch_size, dim), persistent=False)
        self.blocks = nn.ModuleList(_TransformerBlock(dim, heads) for _ in range(depth - 1))
        self.blocks.append(_LastBlock(dim, heads))
        own_norms = depth - 1 if layer_norm == "per_layer" else 0
        self.intermediate_norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(own_norms))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self._gradient_checkpointing = False
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
        """(B, 3, H, W) -> (depth, B, dim): the CLS token after every block, each through its LayerNorm.

        The last layer equals :meth:`forward`.
        """
        cls_tokens = self._cls_tokens(images)
        if not self.intermediate_norms:
            normed: Tensor = self.norm(torch.stack(cls_tokens))
            return normed
        norms = [*self.intermediate_norms, self.norm]
        return torch.stack([norm(token) for norm, token in zip(norms, cls_tokens, strict=True)])

    def use_gradient_checkpointing(self) -> None:
        """From now on keep of a block only its input, and compute the rest again in the backward pass.

        The numbers are the same (Chen et al. 2016, arXiv 1604.06174).
        """
        self._gradient_checkpointing = True

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile every block, with the arguments of ``torch.compile``.

        So both :meth:`forward` and :meth:`forward_layers` run compiled, and the compiler meets one block and not
        ``depth`` copies of it.
        """
        for block in self.blocks:
            block.compile(*args, **kwargs)

    def _cls_tokens(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the CLS token after each block, (B, dim) each."""
        x, cls_tokens = self._tokens(images), []
        for block in self.blocks:
            if self._gradient_checkpointing and torch.is_grad_enabled():
                # A block draws nothing at random, so that no generator's state has to be kept for it.
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
            cls_tokens.append(x[:, 0])
        return cls_tokens

    def _tokens(self, images: Tensor) -> Tensor:
        patches = self.patch_projection(images).flatten(2).transpose(1, 2)  # (B, P, dim), row by row
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches + self.positions], dim=1)


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

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        x = x + self.attention(self.norm1(x))
        transformed: Tensor = x + self.mlp(self.norm2(x))
        return transformed


class _LastBlock(_TransformerBlock):
    """A block that computes the CLS token alone: nobody reads its patches."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, 1, dim)."""
        x = x[:, :1] + self.attention(self.norm1(x), num_outputs=1)
        transformed: Tensor = x + self.mlp(self.norm2(x))
        return transformed


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, num_outputs: int | None = None) -> Tensor:
        """(B, T, dim) -> the first ``num_outputs`` tokens, all for None."""
        # (B, T, 3 * dim) -> three tensors (B, heads, T, dim / heads)
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query[:, :, :num_outputs], key, value)
        projected: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return projected
