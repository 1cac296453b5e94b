"""Vision transformers: torchvision's and a slow one's values, MoCo v3's first weights, and ways to run them cheaper."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainers.backbones import VisionTransformer, build_backbone, sincos_positions
from trainers.config import ViT, ViTBase, ViTSmall, ViTTiny


def small_vit(depth: int = 3, frozen: bool = True, layer_norm: str = "shared") -> VisionTransformer:
    """Of 8x8 images, with weights that are not trivial anywhere."""
    torch.manual_seed(0)
    options = ViTTiny(depth=depth, width=16, heads=2, frozen_patch_projection=frozen, layer_norm=layer_norm)
    vit = build_backbone(options, image_size=8)
    assert isinstance(vit, VisionTransformer)
    for parameter in vit.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return vit


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

    layers: list[Tensor] = []
    norms = [*vit.intermediate_norms, vit.norm] if vit.intermediate_norms else [vit.norm] * vit.depth
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
        layers.append(norm(norms[len(layers)], x)[0])
    return layers


@pytest.mark.parametrize("layer_norm", ["shared", "per_layer"])
def test_vit_computes_what_the_slow_one_computes_at_every_layer(layer_norm: str) -> None:
    vit = small_vit(layer_norm=layer_norm).double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    expected = torch.stack([torch.stack(vit_oracle(vit, image)) for image in images], dim=1)
    torch.testing.assert_close(vit.forward_layers(images), expected)
    torch.testing.assert_close(vit(images), expected[-1])


def torchvisions(vit: VisionTransformer, heads: int) -> nn.Module:
    """torchvision's network of the same size with the same weights; its class token stands on a position of 0."""
    from torchvision.models.vision_transformer import VisionTransformer as Reference

    side = int(math.sqrt(len(vit.positions))) * vit.patch_projection.kernel_size[0]
    reference = Reference(side, vit.patch_projection.kernel_size[0], vit.depth, heads, vit.dim, 4 * vit.dim)
    reference.heads = nn.Identity()  # type: ignore[assignment]
    ours = vit.state_dict()
    theirs = {
        "class_token": ours["cls_token"],
        "conv_proj.weight": ours["patch_projection.weight"],
        "conv_proj.bias": ours["patch_projection.bias"],
        "encoder.pos_embedding": torch.cat([torch.zeros(1, vit.dim), vit.positions])[None],
    }
    parts = {"norm1": "ln_1", "norm2": "ln_2", "attention.out": "self_attention.out_proj", "mlp.0": "mlp.0"}
    parts |= {"mlp.2": "mlp.3"}
    for kind in ("weight", "bias"):
        theirs[f"encoder.ln.{kind}"] = ours[f"norm.{kind}"]
        for number in range(vit.depth):
            layer = f"encoder.layers.encoder_layer_{number}"
            theirs[f"{layer}.self_attention.in_proj_{kind}"] = ours[f"blocks.{number}.attention.qkv.{kind}"]
            for part, name in parts.items():
                theirs[f"{layer}.{name}.{kind}"] = ours[f"blocks.{number}.{part}.{kind}"]
    reference.load_state_dict(theirs)  # strict: no weight of either is left over
    assert len(theirs) == len(ours) + 1, "ours but for the positions, which are no weights here"
    return reference.eval()


def test_vit_computes_what_torchvisions_computes() -> None:
    vit = small_vit(frozen=False)
    reference = torchvisions(vit, heads=2)
    images = torch.randn(4, 3, 8, 8)
    out, expected = vit(images), reference(images)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    theirs = dict(reference.named_parameters())
    torch.testing.assert_close(vit.cls_token.grad, theirs["class_token"].grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(vit.patch_projection.weight.grad, theirs["conv_proj.weight"].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "published", "width", "heads"),
    [  # of torchvision's class in these sizes (DeiT, arXiv 2012.12877, table 1: 5M, 22M, 86M)
        (ViTTiny(patch_size=16), 5_717_416, 192, 3),
        (ViTSmall(), 22_050_664, 384, 12),
        (ViTBase(), 86_567_656, 768, 12),
    ],
)
def test_vit_has_the_published_number_of_parameters(options: ViT, published: int, width: int, heads: int) -> None:
    with torch.device("meta"):
        vit = build_backbone(options, image_size=224)
    assert isinstance(vit, VisionTransformer)
    assert (vit.dim, vit.depth, vit.blocks[0].attention.heads) == (width, 12, heads)
    assert vit.positions.shape == (196, width)
    # Those of the classifier of 1000 classes are not here, nor those of the positions, which are fixed.
    assert sum(p.numel() for p in vit.parameters()) == published - (1000 * width + 1000) - 197 * width


@pytest.mark.parametrize(("patch", "image"), [(2, 8), (8, 8), (4, 20), (16, 32), (32, 64)])
def test_vit_takes_any_patch_that_tiles_the_image(patch: int, image: int) -> None:
    vit = build_backbone(ViTTiny(patch_size=patch, width=16, heads=2, depth=2), image)
    assert isinstance(vit, VisionTransformer)
    assert vit.positions.shape == ((image // patch) ** 2, 16)
    assert vit.forward_layers(torch.randn(2, 3, image, image)).shape == (2, 2, 16)


def test_vit_starts_as_moco_v3_does() -> None:
    torch.manual_seed(0)
    vit = build_backbone(ViTTiny(depth=1), image_size=32)
    assert isinstance(vit, VisionTransformer)
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


def test_weights_are_a_function_of_the_seed() -> None:
    def weights(seed: int, layer_norm: str = "shared") -> dict[str, Tensor]:
        torch.manual_seed(seed)
        options = ViTTiny(width=16, heads=2, depth=2, layer_norm=layer_norm)
        return build_backbone(options, image_size=8).state_dict()

    first, again, other, own_norms = weights(5), weights(5), weights(6), weights(5, "per_layer")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(torch.equal(first[name], own_norms[name]) for name in first)
    assert own_norms.keys() - first.keys() == {"intermediate_norms.0.weight", "intermediate_norms.0.bias"}


# --- cheaper ways to the same numbers --------------------------------------------------------------------------------


def gradients(vit: VisionTransformer, forward: str, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    vit.zero_grad(set_to_none=True)
    out = getattr(vit, forward)(images)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape))
    return out.detach(), {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}


def kept_bytes(vit: VisionTransformer, images: Tensor) -> int:
    """What a forward pass keeps for the backward pass, weights excepted."""
    weights = {parameter.data_ptr() for parameter in vit.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        vit(images).sum()
    return sum(kept.values())


@pytest.mark.parametrize("forward", ["forward", "forward_layers"])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_checkpointing_changes_no_bit(forward: str, autocast: bool) -> None:
    images = torch.randn(4, 3, 8, 8)
    plain, checkpointed = small_vit(layer_norm="per_layer"), small_vit(layer_norm="per_layer")
    checkpointed.use_gradient_checkpointing()
    calls: list[int] = []
    for block in checkpointed.blocks:
        block.register_forward_pre_hook(lambda module, args: calls.append(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, right = gradients(plain, forward, images)
        out, ours = gradients(checkpointed, forward, images)
    assert torch.equal(out, expected)
    assert ours.keys() == right.keys()
    assert all(torch.equal(ours[name], right[name]) for name in right)
    assert len(calls) == 2 * 3, "each block is computed twice"


def test_gradient_checkpointing_keeps_the_inputs_of_blocks_alone() -> None:
    vit, images = small_vit(depth=6), torch.randn(4, 3, 8, 8)
    everything = kept_bytes(vit, images)
    vit.use_gradient_checkpointing()
    tokens = 4 * 5 * 16 * 4  # 4 images of 4 patches and a class token, 16 wide, 4 bytes
    assert kept_bytes(vit, images) < 2 * 6 * tokens < everything / 10


def test_an_evaluation_with_gradient_checkpointing_computes_each_block_once() -> None:
    vit, images = small_vit(), torch.randn(4, 3, 8, 8)
    expected = vit(images).detach()
    vit.use_gradient_checkpointing()
    with torch.no_grad():
        assert torch.equal(vit(images), expected)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_checkpointing_works_within_distributed_data_parallel(autocast: bool) -> None:
    images = torch.randn(4, 3, 8, 8)
    plain, checkpointed = small_vit(), small_vit()
    checkpointed.use_gradient_checkpointing()
    model = DistributedDataParallel(checkpointed, forward_sync_buffers=False)
    for _ in range(2):
        plain.zero_grad(), checkpointed.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain(images).square().sum().backward()
            model(images).square().sum().backward()
        for ours, right in zip(checkpointed.parameters(), plain.parameters(), strict=True):
            assert (ours.grad is None) == (right.grad is None)
            assert ours.grad is None or torch.equal(ours.grad, right.grad)


needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles with g++ on the CPU")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=[pytest.mark.soak, needs_a_compiler])])
def test_compiling_reaches_both_ways_through_the_network(backend: str, checkpointing: bool) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    images = torch.randn(4, 3, 8, 8)
    plain, compiled = small_vit(), small_vit()
    if checkpointing:
        compiled.use_gradient_checkpointing()
    compiled.compile(backend=backend)
    for forward in ("forward_layers", "forward"):
        expected, right = gradients(plain, forward, images)
        out, ours = gradients(compiled, forward, images)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, right[name], rtol=1e-3, atol=1e-4)
        # One graph for all blocks and one for the last, which computes its class token alone; none is compiled again.
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
