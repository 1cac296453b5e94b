"""Residual networks: torchvision's, by weights, names, outputs, gradients and first values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.backbones import build_backbone
from trainers.batch_norm import GroupBatchNorm, SyncBatchNorm
from trainers.config import ResNet18, ResNet50

IMAGENET: dict[str, ResNet18 | ResNet50] = {
    "resnet18": ResNet18(stem="imagenet"),
    "resnet50": ResNet50(stem="imagenet"),
}
SMALL = {"resnet18": ResNet18(width=4, stem="small"), "resnet50": ResNet50(width=4, stem="small")}


def torchvisions(name: str, **arguments: Any) -> nn.Module:
    from torchvision import models

    network: nn.Module = getattr(models, name)(weights=None, **arguments)
    network.fc = nn.Identity()
    return network


@pytest.mark.parametrize("name", IMAGENET)
def test_resnet_has_torchvisions_weights_by_name_and_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    reference, ours = torchvisions(name), build_backbone(IMAGENET[name], image_size=64)
    ours.load_state_dict(reference.state_dict())  # strict: the same names and shapes
    images = torch.randn(4, 3, 64, 64)
    out, expected = ours(images), reference(images)  # training mode: batch statistics too
    assert out.shape == (4, ours.dim)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    theirs = dict(reference.named_parameters())
    for parameter_name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[parameter_name].grad, rtol=1e-3, atol=1e-4)
    ours.eval(), reference.eval()
    torch.testing.assert_close(ours(images), reference(images))


@pytest.mark.parametrize("name", IMAGENET)
@pytest.mark.parametrize("zero_init_residual", [False, True])
def test_resnet_starts_as_torchvisions_does(name: str, zero_init_residual: bool) -> None:
    torch.manual_seed(3)
    reference = torchvisions(name, zero_init_residual=zero_init_residual).state_dict()
    torch.manual_seed(3)
    options = IMAGENET[name].model_copy(update={"zero_init_residual": zero_init_residual})
    ours = build_backbone(options, image_size=64).state_dict()
    assert list(ours) == list(reference)
    for key, value in ours.items():
        if value.dim() == 4:
            assert value.std().item() == pytest.approx(reference[key].std().item(), rel=0.05), key
            assert abs(value.mean().item()) < 0.1 * value.std().item(), key
        else:
            assert torch.equal(value, reference[key]), key


@pytest.mark.parametrize(("name", "published"), [("resnet18", 11.18), ("resnet50", 23.51)])
def test_resnet_has_the_published_number_of_parameters(name: str, published: float) -> None:
    with torch.device("meta"):
        count, reference = (
            sum(parameter.numel() for parameter in network.parameters())
            for network in (build_backbone(IMAGENET[name], image_size=224), torchvisions(name))
        )
    assert count == reference
    assert round(count / 1e6, 2) == published


@pytest.mark.parametrize("name", SMALL)
def test_zero_initialised_blocks_are_their_shortcuts(name: str) -> None:
    torch.manual_seed(0)
    options = SMALL[name].model_copy(update={"zero_init_residual": True})
    stage = build_backbone(options, image_size=8).get_submodule("layer2")
    assert isinstance(stage, nn.Sequential)
    x = torch.randn(4, stage[0].conv1.in_channels, 8, 8)
    entered = stage[0](x)
    torch.testing.assert_close(entered, stage[0].downsample(x).relu())
    torch.testing.assert_close(stage(x), entered)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("stem", "padding", "size", "first", "final"),
    [("small", 1, 32, 32, 4), ("small", 2, 32, 34, 5), ("small", 1, 8, 8, 1), ("imagenet", 1, 64, 16, 2)],
)
def test_stem_decides_how_much_of_the_image_remains(
    name: str, stem: str, padding: int, size: int, first: int, final: int
) -> None:
    network = build_backbone(SMALL[name].model_copy(update={"stem": stem, "stem_padding": padding}), size)
    sizes: dict[str, tuple[int, ...]] = {}
    for layer in ("layer1", "layer4"):
        network.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: sizes.update({layer: output.shape})
        )
    assert network(torch.randn(2, 3, size, size)).shape == (2, network.dim)
    expansion = {"resnet18": 1, "resnet50": 4}[name]
    assert network.dim == 32 * expansion
    assert sizes == {
        "layer1": (2, 4 * expansion, first, first),
        "layer4": (2, 32 * expansion, final, final),
    }


@pytest.mark.parametrize("name", SMALL)
def test_resnet_takes_channels_last_images(name: str) -> None:
    network = build_backbone(SMALL[name], image_size=8).eval()
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(images.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("norm", [SyncBatchNorm, lambda channels: GroupBatchNorm(channels, group_size=4)])
def test_every_norm_is_made_by_the_factory(name: str, norm: Any) -> None:
    """Batch statistics that depend on the number of processes would come in by a norm that is not."""
    network = build_backbone(SMALL[name], 8, norm)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == {"resnet18": 20, "resnet50": 53}[name]
    assert {type(module) for module in norms} == {type(norm(1))}
    network(torch.randn(8, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("options", SMALL.values())
def test_weights_are_a_function_of_the_seed(options: ResNet18 | ResNet50) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return build_backbone(options, image_size=8).state_dict()

    first, again, other = weights(5), weights(5), weights(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_padding_of_a_stem_that_has_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stem_padding=2 has no meaning with stem=imagenet"):
        ResNet18(stem="imagenet", stem_padding=2)
