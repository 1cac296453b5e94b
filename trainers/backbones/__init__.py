"""Networks from images to one vector: residual networks and vision transformers.

Owns the architectures and their initialisation. Leaves batch normalisation's grouping (:mod:`trainers.batch_norm`)
and everything after the representation (:mod:`trainers.heads`) to others.

Initial weights are drawn from torch's default generator alone, in the order of construction.
"""

from __future__ import annotations

from torch import nn

from trainers import config as options
from trainers.backbones.base import Backbone, NormFactory
from trainers.backbones.resnet import BasicBlock, Bottleneck, ResNet
from trainers.backbones.vision_transformer import VisionTransformer, sincos_positions

__all__ = [
    "Backbone",
    "BasicBlock",
    "Bottleneck",
    "NormFactory",
    "ResNet",
    "VisionTransformer",
    "build_backbone",
    "sincos_positions",
]

#: Residual block, and blocks of each of the four stages (He et al. 2016, table 1).
_RESIDUAL: dict[type[options.ResNet], tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    options.ResNet18: (BasicBlock, (2, 2, 2, 2)),
    options.ResNet50: (Bottleneck, (3, 4, 6, 3)),
}


def build_backbone(backbone: options.Backbone, image_size: int, norm: NormFactory = nn.BatchNorm2d) -> Backbone:
    """The network that ``backbone`` names, freshly initialised.

    Args:
        backbone: architecture and its options.
        image_size: side of the square images in pixels; a vision transformer is built for this size only.
        norm: makes the batch normalisation of a ResNet. A vision transformer has none.

    Raises:
        ValueError: the patches of a vision transformer do not tile the image.
    """
    if isinstance(backbone, options.ResNet):
        block, num_blocks = _RESIDUAL[type(backbone)]
        return ResNet(
            block,
            num_blocks,
            stem=backbone.stem,
            width=backbone.width,
            stem_padding=backbone.stem_padding,
            zero_init_residual=backbone.zero_init_residual,
            norm=norm,
        )
    return VisionTransformer(
        image_size=image_size,
        patch_size=backbone.patch_size,
        depth=backbone.depth,
        dim=backbone.width,
        heads=backbone.heads,
        frozen_patch_projection=backbone.frozen_patch_projection,
        layer_norm=backbone.layer_norm,
    )
