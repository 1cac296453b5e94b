"""Backbones: torchvision's ResNet-18, and MoCo v3's vision transformer against an implementation without shortcuts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trainers.backbones import ResNet18, VisionTransformer, build_backbone, sincos_positions
from trainers.config import ResNet18 as ResNet18Options
from trainers.config import ViTTiny


def small_vit(depth: int = 3, frozen: bool = True) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(image_size=8, patch_size=4, depth=depth, dim=16, heads=2, frozen_patch_projection=frozen)


def test_resnet_has_torchvisions_weights_by_name_and_computes_the_same() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    reference = resnet18(weights=None)
    reference.fc = nn.Identity()  # type: ignore[assignment]
    ours = build_backbone(ResNet18Options(stem="imagenet"), image_size=64)
    ours.load_state_dict(reference.state_dict())  # strict: the same names and shapes
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(ours(images), reference(images))  # training mode: batch statistics too
    ours.eval(), reference.eval()
    torch.testing.assert_close(ours(images), reference(images))


def test_resnet_starts_as_torchvisions_does() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(3)
    reference = resnet18(weights=None).state_dict()
    torch.manual_seed(3)
    ours = ResNet18(stem="imagenet")
    scale = {name: weight.std().item() for name, weight in ours.state_dict().items() if weight.dim() == 4}
    assert scale == pytest.approx({name: reference[name].std().item() for name in scale}, rel=0.05)


@pytest.mark.parametrize(("stem", "size", "final"), [("small", 32, 4), ("small", 8, 1), ("imagenet", 64, 2)])
def test_resnet_stem_decides_how_much_of_the_image_remains(stem: str, size: int, final: int) -> None:
    network = ResNet18(stem=stem, width=8)
    maps: list[Tensor] = []
    network.layer4.register_forward_hook(lambda module, args, output: maps.append(output))
    out = network(torch.randn(2, 3, size, size))
    assert maps[0].shape == (2, 64, final, final)
    assert out.shape == (2, network.dim) == (2, 64)


def test_resnet_takes_channels_last_images() -> None:
    network = ResNet18(stem="small", width=8).eval()
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(images.contiguous(memory_format=torch.channels_last)), expected)


def vit_oracle(vit: VisionTransformer, image: Tensor) -> list[Tensor]:
    """The CLS token after each block and the final norm, of one image (3, H, W), one patch and one head at a time."""
    p = 4
    tokens = [vit.cls_token[0, 0]]
    weight, bias = vit.patch_projection.weight, vit.patch_projection.bias
    assert bias is not None
    for row in range(image.shape[1] // p):
        for column in range(image.shape[2] // p):
            patch = image[:, row * p : (row + 1) * p, column * p : (column + 1) * p]
            tokens.append((weight * patch).sum((1, 2, 3)) + bias + vit.positions[row * (image.shape[2] // p) + column])
    x = torch.stack(tokens)

    def norm(layer: nn.LayerNorm, v: Tensor) -> Tensor:
        mean, var = v.mean(-1, keepdim=True), v.var(-1, correction=0, keepdim=True)
        return (v - mean) / (var + 1e-6).sqrt() * layer.weight + layer.bias

    layers = []
    for block in vit.blocks:
        dim, heads = x.shape[1], 2
        qkv = norm(block.norm1, x) @ block.attention.qkv.weight.T + block.attention.qkv.bias
        query, key, value = qkv[:, :dim], qkv[:, dim : 2 * dim], qkv[:, 2 * dim :]
        attended = []
        for h in range(heads):
            part = slice(h * dim // heads, (h + 1) * dim // heads)
            weights = (query[:, part] @ key[:, part].T / math.sqrt(dim / heads)).softmax(1)
            attended.append(weights @ value[:, part])
        x = x + torch.cat(attended, 1) @ block.attention.out.weight.T + block.attention.out.bias
        hidden = norm(block.norm2, x) @ block.mlp[0].weight.T + block.mlp[0].bias
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + hidden @ block.mlp[2].weight.T + block.mlp[2].bias
        layers.append(norm(vit.norm, x)[0])
    return layers


def test_vit_computes_what_the_slow_one_computes_at_every_layer() -> None:
    vit = small_vit().double()
    for parameter in vit.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # biases and norms are trivial when fresh
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    expected = torch.stack([torch.stack(vit_oracle(vit, image)) for image in images], dim=1)
    torch.testing.assert_close(vit.forward_layers(images), expected)
    torch.testing.assert_close(vit(images), expected[-1])


def test_vit_tiny_is_deits() -> None:
    vit = build_backbone(ViTTiny(patch_size=16), image_size=224)
    assert isinstance(vit, VisionTransformer)
    # DeiT-Ti's 5,717,416 less the classifier (192 * 1000 + 1000) and the positions, which are fixed here (197 * 192).
    assert sum(p.numel() for p in vit.parameters()) == 5_717_416 - 193_000 - 197 * 192
    assert vit.dim == 192
    assert vit.positions.shape == (196, 192)


def test_vit_starts_as_moco_v3_does() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=32, patch_size=4, depth=1, dim=192, heads=3, frozen_patch_projection=True)
    block = vit.blocks[0]
    assert vit.cls_token.std().item() == pytest.approx(1e-6, rel=0.3)
    bounds = {
        "patch_projection.weight": math.sqrt(6 / (3 * 4 * 4 + 192)),
        "blocks.0.attention.qkv.weight": math.sqrt(6 / (192 + 192)),
        "blocks.0.attention.out.weight": math.sqrt(6 / (192 + 192)),
        "blocks.0.mlp.0.weight": math.sqrt(6 / (192 + 768)),
    }
    parameters = dict(vit.named_parameters())
    for name, bound in bounds.items():
        assert bound * 0.99 < parameters[name].abs().max().item() <= bound, name
    assert all(not p.any() for name, p in parameters.items() if name.endswith("bias"))
    assert block.norm1.eps == vit.norm.eps == 1e-6


@pytest.mark.parametrize("frozen", [True, False])
def test_patch_projection_is_trained_only_if_asked(frozen: bool) -> None:
    vit = small_vit(frozen=frozen)
    vit(torch.randn(2, 3, 8, 8)).sum().backward()
    assert (vit.patch_projection.weight.grad is None) is frozen
    assert "positions" not in vit.state_dict()


def test_positions_are_sines_of_column_and_row() -> None:
    grid, dim = 3, 8
    positions = sincos_positions(grid, dim)
    for row in range(grid):
        for column in range(grid):
            expected = [
                wave(at / 10_000 ** (i / 2)) for at in (column, row) for wave in (math.sin, math.cos) for i in range(2)
            ]
            assert positions[row * grid + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_vit_refuses_images_that_patches_do_not_tile() -> None:
    with pytest.raises(ValueError, match=r"patch_size=3 does not divide image_size=8"):
        build_backbone(ViTTiny(patch_size=3), image_size=8)


@pytest.mark.parametrize("options", [ResNet18Options(width=8), ViTTiny(width=16, heads=2, depth=2)])
def test_weights_are_a_function_of_the_seed(options: ResNet18Options | ViTTiny) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return build_backbone(options, image_size=8).state_dict()

    first, again, other = weights(5), weights(5), weights(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
