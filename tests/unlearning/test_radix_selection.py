"""The radix selection against a stable sort; on shards in tests/callbacks/test_weight_saliency.py."""

from fractions import Fraction

import pytest
import torch
from selections import FORMS, brute_force, draw

from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import saliency_masks
from lightning_rectify.unlearning.density import kept_of
from lightning_rectify.unlearning.radix_selection import _find_on_device, _find_on_host

DENSITIES = tuple(f"{tenth / 10:g}" for tenth in range(1, 11))


@pytest.mark.parametrize("kind", FORMS)
def test_masks_are_those_of_a_stable_sort(kind):
    scores = draw(kind)
    total = sum(score.numel() for score in scores.values())
    for text, mask in zip(DENSITIES, saliency_masks(scores, list(map(float, DENSITIES))), strict=True):
        kept = int(Fraction(text) * total)
        assert mask.ones == kept and mask.size == total
        expected = brute_force(scores, kept)
        assert all(torch.equal(mask.bits(name), expected[name]) for name in scores)


@pytest.mark.parametrize("kind", ["random", "all tie"])
def test_scope_layer_ranks_each_parameter_apart(kind):
    scores = draw(kind)
    for text, mask in zip(DENSITIES, saliency_masks(scores, list(map(float, DENSITIES)), scope="layer"), strict=True):
        for name, score in scores.items():
            expected = brute_force({name: score}, int(Fraction(text) * score.numel()))
            assert torch.equal(mask.bits(name), expected[name])


def test_several_chunks_and_ties_across_them():
    """More entries than a chunk, with the place where ties end in the second one; and what a transposed score is."""
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.randint(0, 3, (1300, 1000), generator=generator).float(), "b": torch.rand(50, 40).T}
    (mask,) = saliency_masks(scores, [0.6])
    expected = brute_force(scores, kept_of(0.6, 1302000))
    assert all(torch.equal(mask.bits(name), expected[name]) for name in scores)


def test_the_number_kept_is_that_of_the_density_as_written():
    for total in (7, 10, 100, 11_173_962):
        for percent in range(101):
            assert kept_of(percent / 100, total) == percent * total // 100


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(RectifyError, match="a score is not finite"):
        next(saliency_masks({"a": torch.tensor([1.0, bad, 2.0])}, [0.5]))


@pytest.mark.parametrize(
    ("densities", "options", "words"),
    [
        ([0.5, 0.0], {}, r"density is 0.0; .*\(0, 1\]"),
        ([1.01], {}, "density is 1.01"),
        ([0.001], {}, "density 0.001 keeps none of 4 weights"),
        ([0.5], {"scope": "block"}, "scope is block; choose global or layer"),
    ],
)
def test_bad_values_are_named(densities, options, words):
    with pytest.raises(RectifyError, match=words):
        next(saliency_masks({"a": torch.ones(4)}, densities, **options))


@pytest.mark.parametrize("kind", FORMS)
def test_host_and_device_find_the_same_scores_in_a_bin(kind):
    """Both ways on the CPU: which one runs depends on where the scores lie."""
    bits = torch.cat([score.flatten() for score in draw(kind).values()]).view(torch.int32)
    hit = torch.zeros(1 << 15, dtype=torch.bool)
    hit[(bits >> 16).unique()[::2].long()] = True
    host = _find_on_host(bits, hit)
    assert torch.equal(host, _find_on_device(bits, hit))
    assert torch.equal(host, bits[hit[(bits >> 16).long()]])
