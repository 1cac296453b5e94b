"""Residual networks."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.backbones.base import Backbone, NormFactory


class ResNet(Backbone):
    """A ResNet (He et al. 2016, arXiv 1512.03385) without its classifier.

    With the ImageNet stem and width 64, the names and shapes of ``state_dict()`` and the outputs are those of
    torchvision's ``resnet18`` and ``resnet50`` without ``fc``.

    Args:
        block: the residual block.
        num_blocks: blocks of each of the four stages.
        stem: ``imagenet`` is a 7x7 convolution of stride 2 and max-pooling; ``small`` a 3x3 convolution of stride 1
            alone, for images of about 32 pixels.
        width: channels of the first stage; the representation is ``8 * block.expansion`` times as wide.
        stem_padding: of the small stem.
        zero_init_residual: the last norm of every block starts with scale 0, and the block as its shortcut alone
            (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
        norm: makes a normalisation layer from a number of channels.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        num_blocks: tuple[int, int, int, int],
        *,
        stem: Literal["small", "imagenet"],
        width: int = 64,
        stem_padding: int = 1,
        zero_init_residual: bool = False,
        norm: NormFactory = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.dim = 8 * width * block.expansion
        if stem == "small":
            self.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=stem_padding, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = norm(width)
        stages, channels_in = [], width
        for number, count in enumerate(num_blocks):
            channels = width * 2**number
            stages.append(_stage(block, count, channels_in, channels, stride=2 if number else 1, norm=norm))
            channels_in = channels * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                nn.init.zeros_(module.last_norm.get_parameter("weight"))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, dim): the global average of the last stage."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 5 left)."""

    #: Channels of the output over ``channels``.
    expansion: ClassVar[int] = 1

    def __init__(self, channels_in: int, channels: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample = _projection(channels_in, channels * self.expansion, stride, norm)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1, beside a shortcut (He et al. 2016, figure 5 right).

    The stride is in the 3x3 convolution, as torchvision has it; the paper's first network has it in the first 1x1.
    """

    #: Channels of the output over ``channels``.
    expansion: ClassVar[int] = 4

    def __init__(self, channels_in: int, channels: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = norm(channels * self.expansion)
        self.downsample = _projection(channels_in, channels * self.expansion, stride, norm)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, 4 * channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


def _projection(channels_in: int, channels_out: int, stride: int, norm: NormFactory) -> nn.Sequential | None:
    """The shortcut of a block that changes the shape of its input; None for the identity."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), norm(channels_out))


def _stage(
    block: type[BasicBlock | Bottleneck],
    num_blocks: int,
    channels_in: int,
    channels: int,
    stride: int,
    norm: NormFactory,
) -> nn.Sequential:
    first = block(channels_in, channels, stride, norm)
    others = (block(channels * block.expansion, channels, 1, norm) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *others)
