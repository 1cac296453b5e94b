"""Options of the backbones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.config.fields import Int, PositiveInt, Section, added_later


class ResNet(Section):
    """What the residual networks (He et al. 2016) have in common."""

    #: ``small`` is the CIFAR form: 3x3 stride 1 and no max-pooling.
    stem: Literal["small", "imagenet"] = "small"
    #: Channels of the first stage.
    width: PositiveInt = 64
    #: Padding of the small stem; solo-learn's CIFAR networks use 2, which makes 34x34 maps of 32x32 images.
    stem_padding: Annotated[Int, Field(ge=1, le=2)] = added_later(1, neutral=1)
    #: Start every residual block as the identity (MoCo v3's ResNet-50).
    zero_init_residual: bool = added_later(False, neutral=False)

    @model_validator(mode="after")
    def _padded_stem(self) -> ResNet:
        if self.stem_padding != 1 and self.stem != "small":
            raise ValueError(
                f"stem_padding={self.stem_padding} has no meaning with stem={self.stem}; it belongs to small"
            )
        return self


class ResNet18(ResNet):
    """ResNet-18; the representation is 8 times as wide as the first stage (512)."""

    name: Literal["resnet18"] = "resnet18"


class ResNet50(ResNet):
    """ResNet-50 with the stride in the 3x3 convolution, as torchvision has it; 32 times as wide (2048)."""

    name: Literal["resnet50"] = "resnet50"
    stem: Literal["small", "imagenet"] = "imagenet"


class ViT(Section):
    """What the vision transformers have in common: MoCo v3's fixed positions and frozen patch projection."""

    patch_size: PositiveInt = 16
    depth: PositiveInt = 12
    width: PositiveInt
    heads: PositiveInt
    frozen_patch_projection: bool = True
    #: What SDSSL and the layer-wise protocols read of the blocks before the last: their CLS token through the one final
    #: LayerNorm (``shared``), or each through its own (``per_layer``: SDSSL's code until August 2022).
    layer_norm: Literal["shared", "per_layer"] = added_later("shared", neutral="shared")

    @model_validator(mode="after")
    def _divisible(self) -> ViT:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}")
        if self.width % 4:
            raise ValueError(f"width={self.width} is not a multiple of 4, which the 2-D sine-cosine positions need")
        return self


class ViTTiny(ViT):
    """ViT-Tiny (DeiT's Ti: 12 blocks, 192 wide, 3 heads; SDSSL's release has 6)."""

    name: Literal["vit_tiny"] = "vit_tiny"
    patch_size: PositiveInt = 4
    width: PositiveInt = 192
    heads: PositiveInt = 3


class ViTSmall(ViT):
    """ViT-Small as MoCo v3 and SDSSL have it: 12 blocks, 384 wide, 12 heads (timm and DINO: 6)."""

    name: Literal["vit_small"] = "vit_small"
    width: PositiveInt = 384
    heads: PositiveInt = 12


class ViTBase(ViT):
    """ViT-Base: 12 blocks, 768 wide, 12 heads."""

    name: Literal["vit_base"] = "vit_base"
    width: PositiveInt = 768
    heads: PositiveInt = 12


Backbone = Annotated[ResNet18 | ResNet50 | ViTTiny | ViTSmall | ViTBase, Field(discriminator="name")]
