"""Every loss against a slow one written from its paper's equation, in float64: values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.losses import contrast_layers, info_nce, nt_xent, regression, similarity_divergence

#: The sharpest and the softest of the papers, and beyond: exp(1 / 0.01) is no float32.
TEMPERATURES = [0.01, 0.2, 1.0, 100.0]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape, dtype=torch.float64), dim=-1)


def softmax(scores: list[Tensor]) -> list[Tensor]:
    """From its definition; the largest score is taken off first, which changes nothing but the range of numbers."""
    largest = max(score.item() for score in scores)
    powers = [(score - largest).exp() for score in scores]
    total = torch.stack(powers).sum()
    return [power / total for power in powers]


def cross_entropy(scores: list[Tensor], right: int) -> Tensor:
    return -softmax(scores)[right].log()


def assert_same_gradients(value: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Of two values, or of two stacks of values that are weighed differently."""
    weights = torch.arange(1.0, value.numel() + 1, dtype=value.dtype).view(value.shape)
    for gradient, right in zip(
        torch.autograd.grad((weights * value).sum(), inputs, retain_graph=True),
        torch.autograd.grad((weights * expected).sum(), inputs, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(gradient, right)


# --- MoCo v1 and v2: InfoNCE over a queue ----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_info_nce_is_its_equation(temperature: float) -> None:
    query, key, negatives = unit(5, 4).requires_grad_(), unit(5, 4), unit(9, 4)
    losses, correct = [], []
    for q, k in zip(query, key, strict=True):
        scores = [q @ k / temperature, *(q @ n / temperature for n in negatives)]
        losses.append(cross_entropy(scores, 0))
        correct.append(all(scores[0] > score for score in scores[1:]))
    expected = torch.stack(losses).mean()
    loss, accuracy = info_nce(query, key, negatives, temperature)
    torch.testing.assert_close(loss, expected)
    assert_same_gradients(loss, expected, query)
    assert accuracy.item() == pytest.approx(sum(correct) / 5)
    assert 0 < sum(correct) < 5


def test_info_nce_of_random_vectors_is_the_logarithm_of_the_number_of_candidates() -> None:
    loss, _ = info_nce(unit(64, 32), unit(64, 32), unit(255, 32), temperature=100.0)
    assert loss.item() == pytest.approx(math.log(256), abs=1e-3)


# --- ISD: divergence of similarities ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("student", "teacher"), [(0.02, 0.02), (0.1, 0.01), (1.0, 0.5), (100.0, 100.0)])
def test_similarity_divergence_is_its_equation(student: float, teacher: float) -> None:
    query, key, anchors = unit(5, 4).requires_grad_(), unit(5, 4).requires_grad_(), unit(9, 4)
    losses, entropies = [], []
    for q, k in zip(query, key, strict=True):
        p = [value.detach() for value in softmax([k @ a / teacher for a in anchors])]
        s = softmax([q @ a / student for a in anchors])
        losses.append(torch.stack([p_j * (p_j.log() - s_j.log()) for p_j, s_j in zip(p, s, strict=True)]).sum())
        entropies.append(-torch.stack([p_j * p_j.log() for p_j in p]).sum())
    expected = torch.stack(losses).mean()
    loss, entropy = similarity_divergence(query, key, anchors, student_temperature=student, teacher_temperature=teacher)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(entropy, torch.stack(entropies).mean())
    assert_same_gradients(loss, expected, query)
    assert not entropy.requires_grad
    assert torch.autograd.grad(loss, [query, key], allow_unused=True)[1] is None


def test_equal_networks_and_temperatures_have_no_divergence() -> None:
    rows, anchors = unit(5, 4), unit(9, 4)
    same, _ = similarity_divergence(rows, rows, anchors, student_temperature=0.02, teacher_temperature=0.02)
    other, _ = similarity_divergence(rows, rows, anchors, student_temperature=0.1, teacher_temperature=0.02)
    assert same.item() == pytest.approx(0, abs=1e-12)
    assert other.item() > 0.1


def test_target_over_orthonormal_anchors_is_the_softmax_of_the_coordinates() -> None:
    key = unit(3, 6)
    p = (key / 0.5).softmax(1)
    _, entropy = similarity_divergence(
        key, key, torch.eye(6, dtype=torch.float64), student_temperature=1.0, teacher_temperature=0.5
    )
    torch.testing.assert_close(entropy, -(p * p.log()).sum(1).mean())


def test_short_rows_make_the_target_nearly_uniform() -> None:
    """The authors' queue initialisation: at D 512 and T 0.02 the target's entropy is almost ln K."""
    key = unit(4, 512)
    noise = torch.randn(16384, 512, dtype=torch.float64)

    def entropy(anchors: Tensor) -> float:
        return similarity_divergence(key, key, anchors, student_temperature=0.02, teacher_temperature=0.02)[1].item()

    short = F.normalize(noise, dim=0) * math.sqrt(16384 / 128000)  # as long as in a queue of 128000
    assert math.log(16384) - entropy(short) < 0.02
    assert math.log(16384) - entropy(F.normalize(noise, dim=1)) > 1.5


# --- MoCo v3: contrast within the batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_contrast_of_layers_is_moco_v3s(temperature: float) -> None:
    predictions = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    targets = unit(5, 4)
    expected, correct = [], []
    for layer in range(3):
        losses = []
        for b in range(5):
            scores = [predictions[layer, b] / predictions[layer, b].norm() @ y / temperature for y in targets]
            losses.append(2 * temperature * cross_entropy(scores, b))
            if layer == 2:
                correct.append(max(range(5), key=lambda i: scores[i].item()) == b)
        expected.append(torch.stack(losses).mean())
    losses_of_layers, accuracy = contrast_layers(predictions, targets, temperature)
    torch.testing.assert_close(losses_of_layers, torch.stack(expected))
    assert_same_gradients(losses_of_layers, torch.stack(expected), predictions)
    assert accuracy.item() == pytest.approx(sum(correct) / 5)
    assert 0 < sum(correct) < 5


def test_contrast_of_random_vectors_is_2_t_times_the_logarithm_of_the_batch() -> None:
    losses, _ = contrast_layers(torch.randn(2, 64, 32, dtype=torch.float64), unit(64, 32), temperature=100.0)
    torch.testing.assert_close(losses / 200, torch.full((2,), math.log(64), dtype=torch.float64), rtol=0, atol=1e-3)


# --- BYOL: regression ------------------------------------------------------------------------------------------------


def test_regression_is_byols_equation() -> None:
    predictions = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    targets = unit(5, 4).requires_grad_()
    expected = []
    for layer in predictions:
        distances = [(p / p.norm() - z.detach()).square().sum() for p, z in zip(layer, targets, strict=True)]
        expected.append(torch.stack(distances).mean())
    losses = regression(predictions, targets)
    torch.testing.assert_close(losses, torch.stack(expected))
    assert_same_gradients(losses, torch.stack(expected), predictions)
    assert torch.autograd.grad(losses.sum(), [predictions, targets], allow_unused=True)[1] is None


def test_regression_goes_from_0_along_the_target_to_4_against_it() -> None:
    targets = unit(5, 4)
    losses = regression(torch.stack([3 * targets, -0.1 * targets]), targets)
    torch.testing.assert_close(losses, torch.tensor([0.0, 4.0], dtype=torch.float64))


# --- SimCLR and SD-SimCLR: NT-Xent -----------------------------------------------------------------------------------


def nt_xent_of_its_equation(queries: Tensor, candidates: Tensor, temperature: float) -> tuple[Tensor, float]:
    """(B, 2, D) each: the mean over all rows, and the share of rows that find the other view."""
    places = [(image, view) for image in range(len(candidates)) for view in range(2)]
    losses, correct = [], 0
    for image, view in places:
        others = [place for place in places if place != (image, view)]
        scores = [queries[image, view] @ candidates[place] / temperature for place in others]
        right = others.index((image, 1 - view))
        losses.append(cross_entropy(scores, right))
        correct += max(range(len(others)), key=lambda i: scores[i].item()) == right
    return torch.stack(losses).mean(), correct / len(places)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nt_xent_is_its_equation(temperature: float) -> None:
    rows = unit(4, 2, 3).requires_grad_()
    expected, correct = nt_xent_of_its_equation(rows, rows, temperature)
    (loss,), accuracy = nt_xent(rows[None], rows, temperature)
    torch.testing.assert_close(loss, expected)
    assert_same_gradients(loss, expected, rows)
    assert accuracy.item() == pytest.approx(correct)
    assert 0 < correct < 1


def test_nt_xent_is_half_the_sum_of_both_directions_of_the_authors_code() -> None:
    """Per view: other view's rows and own rows, one's own at minus 1e9, and the own number as the label."""
    first, second = unit(5, 4), unit(5, 4)
    itself, labels = 1e9 * torch.eye(5, dtype=torch.float64), torch.arange(5)
    loss_a = F.cross_entropy(torch.cat([first @ second.T / 0.1, first @ first.T / 0.1 - itself], dim=1), labels)
    loss_b = F.cross_entropy(torch.cat([second @ first.T / 0.1, second @ second.T / 0.1 - itself], dim=1), labels)
    rows = torch.stack([first, second], dim=1)
    (loss,), _ = nt_xent(rows[None], rows, 0.1)
    torch.testing.assert_close(2 * loss, loss_a + loss_b)


def test_nt_xent_of_earlier_layers_compares_them_with_the_last_ones_outputs() -> None:
    layers, last = unit(3, 4, 2, 3).requires_grad_(), unit(4, 2, 3)
    expected = torch.stack([nt_xent_of_its_equation(layer, last, 0.2)[0] for layer in layers])
    losses, accuracy = nt_xent(layers, last, 0.2)
    torch.testing.assert_close(losses, expected)
    assert_same_gradients(losses, expected, layers)
    assert accuracy.item() == pytest.approx(nt_xent_of_its_equation(layers[-1], last, 0.2)[1])


def test_nt_xent_of_random_vectors_is_the_logarithm_of_the_other_rows() -> None:
    rows = unit(32, 2, 16)
    assert nt_xent(rows[None], rows, 100.0)[0].item() == pytest.approx(math.log(63), abs=1e-3)


# --- all of them -----------------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "info_nce": lambda query, key, anchors: info_nce(query, key, anchors, 0.02)[0],
    "similarity_divergence": lambda query, key, anchors: similarity_divergence(
        query, key, anchors, student_temperature=0.02, teacher_temperature=0.02
    )[0],
    "contrast_layers": lambda query, key, _: contrast_layers(query[None], key, 0.02)[0],
    "regression": lambda query, key, _: regression(query[None], key),
    "nt_xent": lambda query, key, _: nt_xent(
        torch.stack([query, key], dim=1)[None], torch.stack([query, key], dim=1), 0.02
    )[0],
}


@pytest.mark.parametrize("name", LOSSES)
def test_similarities_keep_float32_under_autocast(name: str) -> None:
    query, key, anchors = unit(4, 64).float(), unit(4, 64).float(), unit(32, 64).float()
    expected = LOSSES[name](query, key, anchors)
    with torch.autocast("cpu", torch.bfloat16):
        assert (query @ key.T).dtype == torch.bfloat16
        assert torch.equal(LOSSES[name](query, key, anchors), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_sharp_losses_stay_finite_in_float32_where_the_worst_comes_together(name: str) -> None:
    """Queries that point away from their own keys and along others, at temperatures where exp overflows."""
    key = unit(4, 8).float()
    query = (-key).requires_grad_()
    loss = LOSSES[name](query, key, torch.cat([key, -key])).sum()
    assert loss.isfinite()
    assert torch.autograd.grad(loss, query)[0].isfinite().all()
