"""RISE and Sobol indices against loops, and on networks whose regions are known."""

import math

import pytest
import torch
from explained import case, trace
from torch import nn

from lightning_rectify.attribution import masked_probabilities, random_masks, rise, rise_classes, sobol, sobol_classes
from lightning_rectify.errors import RectifyError


class Regions(nn.Module):
    """The probability of class k+1 is the mean of its own 4x4 region, that of class 0 the rest."""

    def __init__(self, weights=(1.0, 1.0)):
        super().__init__()
        self.masks = nn.Parameter(torch.zeros(2, 12, 12))
        with torch.no_grad():
            self.masks[0, 0:4, 0:4] = weights[0] / 16
            self.masks[1, 8:12, 4:8] = weights[1] / 16

    def forward(self, image):
        share = 0.4 * torch.einsum("khw,bhw->bk", self.masks, image[:, 0])
        return torch.cat((1 - share.sum(1, keepdim=True), share), 1).log()


def test_rise_is_the_loop_of_single_masks():
    net, images, _ = case(torch.float32)
    net.eval()
    masks = random_masks(40, (10, 12), cells=4, keep=0.3)
    by_hand = torch.zeros(3, 4, 10, 12)
    with torch.no_grad():
        for b in range(3):
            for mask in masks:
                by_hand[b] += net(images[b : b + 1] * mask).softmax(1)[0].view(4, 1, 1) * mask
    by_hand /= 40 * masks.mean()
    before = trace(net)
    found = rise_classes(net, images, masks, chunk=7)
    assert trace(net) == before
    torch.testing.assert_close(found, by_hand)
    target = torch.tensor([2, 0, 3])
    torch.testing.assert_close(rise(net, images, target, masks), found[torch.arange(3), target])


def test_rise_finds_the_known_regions():
    maps = rise_classes(Regions(), torch.ones(1, 1, 12, 12), 4000, cells=3)[0]
    for k, (rows, columns) in enumerate([(slice(0, 4), slice(0, 4)), (slice(8, 12), slice(4, 8))], start=1):
        # what a pixel adds: E[p | it is kept] - E[p]: largest in the region, nothing far away
        inside = maps[k, rows, columns].mean()
        assert inside > maps[k].mean() + 0.04
        assert maps[k].argmax() // 12 in range(12)[rows] and maps[k].argmax() % 12 in range(12)[columns]


def test_masks_keep_the_share_asked_for_at_every_pixel():
    masks = random_masks(6000, (20, 28), cells=5, keep=0.3)
    assert masks.min() >= 0 and masks.max() <= 1
    torch.testing.assert_close(masks.mean(0), torch.full((20, 28), 0.3), rtol=0, atol=0.025)
    torch.testing.assert_close(random_masks(8, (20, 28)), random_masks(8, (20, 28)))
    # a mask is the bilinear enlargement of its grid, cut at a whole shift
    one = random_masks(1, (12, 12), cells=3, generator=torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    grid = (torch.rand((1, 1, 4, 4), generator=g) < 0.5).float()
    row, column = (torch.rand((1, 2), generator=g) * 4).floor().int()[0]
    large = nn.functional.interpolate(grid, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(one, large[:, 0, row : row + 12, column : column + 12])


def test_sobol_indices_of_an_additive_network_are_its_squared_weights():
    # p_k is linear in the dimmed cells: no interactions, so the index of a region is its share of the variance
    net, images = Regions(), torch.ones(1, 1, 12, 12)
    maps = sobol_classes(net, images, cells=3, designs=1024)[0]
    expected = torch.zeros(3, 3, 3)
    expected[0, 0, 0] = expected[0, 2, 1] = 0.5  # class 0 sees both with equal weight
    expected[1, 0, 0] = expected[2, 2, 1] = 1
    torch.testing.assert_close(maps[:, 1::4, 1::4], expected, rtol=0, atol=0.02)
    assert sobol(net, images, torch.tensor([1])).shape == (1, 12, 12)


def test_sobol_indices_see_interactions():
    class Product(nn.Module):  # p = a·b of two cells: S_total = 4/7 each for uniform factors
        def forward(self, image):
            p = 0.9 * image[:, 0, 0, 0] * image[:, 0, 0, 1] + 0.01
            return torch.stack((1 - p, p), 1).log()

    maps = sobol_classes(Product(), torch.ones(1, 1, 2, 2), cells=2, designs=4096)[0, 1]
    # var ab = 1/9 - 1/16 = 7/144; total variance of a = E[b²]·var a = 1/36
    assert maps[0].tolist() == pytest.approx([4 / 7, 4 / 7], abs=0.02)
    assert maps[1].tolist() == [0, 0]


def test_a_class_that_does_not_vary_has_no_index():
    class Constant(nn.Module):
        def forward(self, image):
            return torch.zeros(len(image), 2)

    maps = sobol_classes(Constant(), torch.rand(2, 1, 8, 8), cells=2, designs=4)
    assert not maps.any() and maps.isfinite().all()


def test_masks_of_each_image_and_a_baseline():
    net, images, _ = case(torch.float32)
    masks = torch.rand(5, 3, 10, 12)
    mean = images.mean((2, 3), keepdim=True)
    found = masked_probabilities(net, images, masks, baseline=mean, chunk=4)
    with torch.no_grad():
        for n in range(5):
            mixed = images * masks[n][:, None] + mean * (1 - masks[n][:, None])
            torch.testing.assert_close(found[n], net.eval()(mixed).softmax(1))
    assert math.isclose(float(found.sum()), 15, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n, x, t: rise(n, x, t, 0), "count is 0"),
        (lambda n, x, t: rise(n, x, t, 4, keep=1.0), "keep 1.0"),
        (lambda n, x, t: rise(n, x, t + 1, 4), "target holds 1 … 4"),
        (lambda n, x, t: rise(n, x, t, torch.ones(4, 5, 5)), r"masks are \(5, 5\) and images \(10, 12\)"),
        (lambda n, x, t: sobol(n, x, t, designs=1), "designs 1"),
        (lambda n, x, t: rise(n, (x * 255).byte(), t, 4), "float images"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RectifyError, match=words):
        call(*case(torch.float32))
