"""Statistics of maps, class sensitivity, insertion and deletion, grids, aggregation, leakage and DiffROAR."""

import math

import numpy as np
import pytest
import torch
from explained import case, trace
from scipy.stats import entropy, spearmanr
from sklearn.linear_model import LogisticRegression
from torch import nn

from lightning_rectify.attribution import (
    aggregate_maps,
    cell_share,
    class_sensitivity,
    describe_map,
    diff_roar,
    disconnected_grid_game,
    grad_cam,
    gradient_times_input,
    grid_pointing_game,
    half_mass_region,
    image_grids,
    input_gradient,
    insertion_deletion,
    integrated_gradients,
    keep_pixels,
    label_leakage,
    linear_approximation,
    map_drift,
    map_statistics,
    masking_contrast,
    norm_grad,
    random_maps,
    rank_correlation,
    ranked_masks,
    smooth_grad,
    soft_background,
)
from lightning_rectify.errors import RectifyError


def test_statistics_against_scipy_and_the_definition_of_gini():
    maps = torch.randn(4, 5, 6).round(decimals=1)
    found = map_statistics(maps)
    for place in range(4):
        values = maps[place].abs().double().numpy().ravel()
        assert found["mass"][place] == pytest.approx(values.mean())
        assert found["entropy"][place] == pytest.approx(entropy(values) / math.log(30))
        gini = np.abs(values[:, None] - values).sum() / (2 * 30 * 30 * values.mean())
        assert found["gini"][place] == pytest.approx(gini)
        other = maps[(place + 1) % 4]
        expected = spearmanr(maps[place].ravel(), other.ravel()).statistic
        assert rank_correlation(maps[place : place + 1], other[None]).item() == pytest.approx(expected)
    with pytest.raises(RectifyError, match="do not compare"):
        rank_correlation(maps, maps[:3])
    zero = map_statistics(torch.zeros(1, 3, 3))
    assert (zero["mass"], zero["entropy"], zero["gini"]) == (0, pytest.approx(1), pytest.approx(0, abs=1e-12))
    assert map_drift(maps, 3 * maps + 1).abs().max() < 1e-12
    assert map_drift(maps, -maps).tolist() == pytest.approx([2] * 4)
    assert map_drift(torch.ones(2, 3, 3), torch.stack((torch.zeros(3, 3), torch.eye(3)))).tolist() == [0, 1]


def test_class_sensitivity_is_the_correlation_of_two_separate_maps():
    net, images, _ = case()
    before, calls = trace(net), []
    handle = net.linear.register_forward_hook(lambda *_: calls.append(1))
    found = class_sensitivity(net, images, ["conv", "deep"])
    handle.remove()
    assert len(calls) == 1 and trace(net) == before
    with torch.no_grad():
        logits = net.eval()(images)
    seen = {}
    for layer, module in (("conv", net.conv), ("deep", net.deep)):
        maps = []
        for target in (logits.argmax(1), logits.argmin(1)):
            handle = module.register_forward_hook(lambda m, i, o: seen.update(a=o.clone()) or seen["a"].clone())
            score = net(images).gather(1, target[:, None]).sum()
            handle.remove()
            (g,) = torch.autograd.grad(score, seen["a"])
            maps.append((seen["a"] * g).clamp_min(0).norm(dim=1).detach().flatten(1).numpy())
        expected = [spearmanr(a, b).statistic for a, b in zip(*maps, strict=True)]
        assert found[layer].tolist() == pytest.approx(expected, abs=1e-5)


def test_maps_that_know_no_class_have_sensitivity_1():
    class Blind(nn.Module):  # both logits read the same map with the same sign
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, image):
            mean = self.conv(image).abs().mean((1, 2, 3))
            return torch.stack((mean, 0.5 * mean), 1)

    found = class_sensitivity(Blind().double(), torch.rand(2, 1, 6, 6, dtype=torch.float64))
    assert found["conv"].tolist() == pytest.approx([1, 1])
    dead = Blind().double()  # no map at all is not a map that knows no class
    torch.nn.init.zeros_(dead.conv.weight)
    torch.nn.init.zeros_(dead.conv.bias)
    assert class_sensitivity(dead, torch.rand(2, 1, 6, 6, dtype=torch.float64))["conv"].isnan().all()


def test_insertion_and_deletion_are_the_loop_over_pixels():
    net, images, target = case(torch.float32)
    maps = torch.rand(3, 10, 12)
    curves = insertion_deletion(net, images, target, maps, steps=5, chunk=4)
    net.eval()
    background = soft_background(images)
    with torch.no_grad():
        for b in range(3):
            order = maps[b].flatten().argsort(descending=True)
            for step in range(6):
                chosen = order[: step * 24]
                shown, hidden = background[b].flatten(1).clone(), images[b].flatten(1).clone()
                shown[:, chosen] = images[b].flatten(1)[:, chosen]
                hidden[:, chosen] = 0
                both = torch.stack((shown, hidden)).unflatten(2, (10, 12))
                p = net(both).softmax(1)[:, target[b]]
                assert curves.insertion[step, b] == pytest.approx(p[0].item(), abs=1e-6)
                assert curves.deletion[step, b] == pytest.approx(p[1].item(), abs=1e-6)
    assert curves.insertion_area == pytest.approx(np.trapezoid(curves.insertion.numpy(), dx=0.2, axis=0).mean())


class Corner(nn.Module):
    """The probability of class 1 is the mean of the upper left quarter, scaled by `trust`."""

    def __init__(self, trust=0.8):
        super().__init__()
        self.trust = trust

    def forward(self, image):
        p = self.trust * image[:, 0, : image.shape[2] // 2, : image.shape[3] // 2].mean((1, 2)) + 0.01
        return torch.stack((1 - p, p), 1).log()


def test_normalised_areas_do_not_follow_confidence_and_the_right_map_beats_chance():
    images = torch.zeros(2, 1, 12, 12)
    images[:, :, :6, :6] = 1
    right = torch.zeros(2, 12, 12)
    right[:, :6, :6] = 1
    target = torch.tensor([1, 1])
    sure, unsure = (insertion_deletion(Corner(t), images, target, right, steps=12) for t in (0.8, 0.2))
    assert sure.insertion_area > 2 * unsure.insertion_area
    assert sure.normalised_insertion == pytest.approx(unsure.normalised_insertion, abs=1e-4)
    assert sure.normalised_deletion == pytest.approx(unsure.normalised_deletion, abs=1e-4)
    # a quarter of the pixels holds all: the deletion curve falls linearly over a quarter and stays
    assert sure.normalised_deletion == pytest.approx(1 / 8, abs=1e-4)
    chance = insertion_deletion(Corner(), images, target, random_maps(images), steps=12)
    assert chance.normalised_deletion == pytest.approx(0.5, abs=0.06)
    assert sure.normalised_insertion > chance.normalised_insertion + 0.2
    flat = insertion_deletion(Corner(0), images, target, right, steps=4)
    assert math.isnan(flat.normalised_insertion)


def test_ranked_masks_hold_the_asked_share_also_with_ties():
    masks = ranked_masks(torch.ones(2, 4, 5), 4)
    assert masks.flatten(2).sum(2).tolist() == [[0, 0], [5, 5], [10, 10], [15, 15], [20, 20]]
    assert masks[1, 0].flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_contrasts_are_differences_of_falls():
    net, images, _ = case(torch.float32)
    maps = torch.rand(3, 10, 12)
    falls = []
    for share in range(1, 10):
        masks = ranked_masks(maps, 10)[share]
        with torch.no_grad():
            falls.append(net.eval()(images).softmax(1) - net(images * ~masks[:, None]).softmax(1))
    mean = torch.stack(falls).mean(0)
    torch.testing.assert_close(masking_contrast(net, images, maps, [2]), mean[:, 2])
    torch.testing.assert_close(
        masking_contrast(net, images, maps, [0, 2], [1, 3]), mean[:, [0, 2]].mean(1) - mean[:, [1, 3]].mean(1)
    )
    each = torch.tensor([[0], [3], [1]])
    torch.testing.assert_close(masking_contrast(net, images, maps, each), mean.gather(1, each).squeeze(1))
    assert masking_contrast(net, images, maps, [0, 1, 2, 3]).abs().max() < 1e-6  # probabilities sum to 1


def test_leakage_by_hand():
    images = torch.zeros(1, 1, 4, 4)
    images[0, 0, :2, :2] = torch.tensor([[1.0, 1.0], [0.0, 0.0]])  # p = 0.4 on the image

    class Mean(Corner):  # what is kept counts as much as if it were all
        def forward(self, image):
            bright = (image[:, 0] > 0).sum((1, 2))
            p = torch.where(bright == 1, 0.9, 0.41)
            return torch.stack((1 - p, p), 1).log()

    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = 1
    found = label_leakage(Mean(), images, torch.tensor([1]), maps, steps=16)
    # top 1 pixel: surer than on the image; all others as the image
    assert found.excess.item() == pytest.approx((0.9 - 0.41) / 15)
    kl = 0.41 * math.log(0.41 / 0.9) + 0.59 * math.log(0.59 / 0.1)
    assert found.class_free.item() == pytest.approx(-kl / 15, rel=1e-4)


def test_grids_and_shares():
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 2, 3)
    grids = image_grids(images)
    assert grids.shape == (2, 1, 4, 6)
    assert grids[1, 0].tolist() == [[4, 4, 4, 5, 5, 5]] * 2 + [[6, 6, 6, 7, 7, 7]] * 2
    maps = torch.tensor([[[1.0, -5, 2, 0], [0, 0, 1, 0], [0, 0, 0, 0], [4, 0, 0, 0]]])
    assert cell_share(maps, torch.tensor([0])).item() == pytest.approx(1 / 8)
    assert cell_share(maps, torch.tensor([1])).item() == pytest.approx(3 / 8)
    assert cell_share(torch.zeros(1, 4, 4), torch.tensor([2])).item() == 0


DIFULL = {
    "input_gradient": (input_gradient, None),
    "gradient_times_input": (gradient_times_input, None),
    "integrated_gradients": (integrated_gradients, None),
    "smooth_grad": (smooth_grad, None),
    "norm_grad": (lambda m, x, t: norm_grad(m, x, t, "act"), "act"),
    "norm_grad3": (lambda m, x, t: norm_grad(m, x, t, "conv", "identity3"), "conv"),
    "selective": (lambda m, x, t: norm_grad(m, x, t, "conv", "selective"), "conv"),
    "linear_approximation": (lambda m, x, t: linear_approximation(m, x, t, "conv"), "conv"),
}


@pytest.mark.parametrize("name", DIFULL)
def test_no_method_sees_outside_its_cell_when_nothing_can(name):
    """DiFull: cells are computed apart, so attribution outside the explained one would be the method's own fault."""
    net, images, target = case()
    images = torch.rand(8, 3, 10, 12, dtype=images.dtype)
    target = torch.arange(8) % 4
    saliency, layer = DIFULL[name]
    before = trace(net)
    found = disconnected_grid_game(net, images, target, saliency, layer=layer)
    assert trace(net) == before
    assert found.maps.shape == (8, 20, 24)
    parts = found.maps.unflatten(2, (2, 12)).unflatten(1, (2, 10)).abs().sum((2, 4)).flatten(1)
    outside = parts.sum(1) - parts.gather(1, found.place[:, None]).squeeze(1)
    assert outside.max() == 0
    assert (found.score[parts.sum(1) > 0] == 1).all()
    if layer is None and name != "smooth_grad":  # and inside it is the map of the image alone
        alone = saliency(net, images[:1], target[:1])
        torch.testing.assert_close(found.maps[0, :10, :12], alone[0])


def test_grad_cam_fails_difull_because_its_weights_are_global():
    net, _, target = case()
    images, target = torch.rand(4, 3, 10, 12, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    found = disconnected_grid_game(net, images, target, lambda m, x, t: grad_cam(m, x, t, "deep"), layer="deep")
    assert found.score.max() < 1


def test_the_pointing_game_finds_the_cell_a_class_is_in():
    class Bright(nn.Module):  # class k: how much of channel k is in the image, wherever it stands
        def forward(self, image):
            return image.mean((2, 3))

    images = torch.zeros(4, 4, 3, 3)
    for place in range(4):
        images[place, place] = 1
    found = grid_pointing_game(Bright(), images, torch.arange(4), gradient_times_input)
    assert found.score.tolist() == [1, 1, 1, 1]
    assert grid_pointing_game(Bright(), images, torch.arange(4), input_gradient).score.tolist() == [0.25] * 4


def test_aggregate_maps_by_hand():
    maps = torch.arange(100.0).view(100, 1, 1).expand(100, 2, 2)
    found = aggregate_maps(maps, torch.arange(100.0))
    assert found.counts == [2, 3, 45, 45, 3, 2]
    assert found.scores == [98.5, 96, 72, 27, 3, 0.5]
    assert found.maps[:, 0, 0].tolist() == found.scores
    assert found.scale == pytest.approx(np.quantile(np.repeat(found.scores, 4), 0.995))
    tied = aggregate_maps(maps, torch.zeros(100))  # equal scores: by mass
    assert tied.scores == [0] * 6 and tied.maps[0, 0, 0] == 98.5
    few = aggregate_maps(maps[:4], torch.arange(4.0))
    assert few.counts == [0, 0, 2, 2, 0, 0] and math.isfinite(few.scale)


def test_diff_roar_with_a_learner_of_one_pixel():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (400,), generator=generator)
    images = torch.rand(400, 1, 4, 4, generator=generator)
    images[:, 0, 1, 2] = label.float()
    right = torch.zeros(400, 4, 4)
    right[:, 1, 2] = 1

    def train(kept):
        half = kept[label == 1].mean(0) - kept[label == 0].mean(0)
        middle = (kept[label == 1].mean(0) + kept[label == 0].mean(0)) / 2
        return lambda x, y: ((((x - middle) * half).sum((1, 2, 3)) > 0).long() == y).float().mean().item()

    found = diff_roar(images, right, train, images, right, label, kept=(0.1, 0.25))
    assert found.top == (1, 1) and max(found.bottom) < 0.7
    assert found.score == pytest.approx(sum(1 - low for low in found.bottom) / 2)
    wrong = diff_roar(images, 1 - right, train, images, 1 - right, label, kept=(0.1, 0.25))
    assert wrong.score == pytest.approx(-found.score, abs=0.15) and wrong.score < -0.3
    kept = keep_pixels(images, right, 1 / 16, torch.tensor(0.25))
    assert torch.equal(kept[:, 0, 1, 2], label.float()) and (kept[:, 0, 0] == 0.25).all()


def test_diff_roar_tells_the_mask_from_what_is_in_it():
    """Images of noise, and maps that keep pixels on the side of the label: only the mask can be learnt."""
    generator = torch.Generator().manual_seed(0)
    noise, label = torch.rand(600, 1, 4, 6, generator=generator), torch.randint(2, (600,), generator=generator)
    maps = torch.rand(600, 4, 6, generator=generator)
    maps[:, :, 3:] += label.view(-1, 1, 1)
    maps[:, :, :3] += 1 - label.view(-1, 1, 1)
    signal = noise.clone()
    signal[:, 0] += 2 * label.view(-1, 1, 1)  # every pixel tells

    def accuracies(images, share=0.3, **options):
        def train(kept):
            learner = LogisticRegression(max_iter=2000).fit(features(kept), label[:400])
            return lambda x, y: learner.score(features(x), y)

        found = diff_roar(
            images[:400], maps[:400], train, images[400:], maps[400:], label[400:], kept=(share,), **options
        )
        return (*found.top, *found.bottom)

    def features(x):  # of each pixel its value and whether it was filled with the constant
        return torch.cat((x.flatten(1), (x == 7.0).float().flatten(1)), 1).numpy()

    assert min(accuracies(noise, fill=7.0)) > 0.95  # as if the noise told the label
    assert max(accuracies(noise, fill="others")) < 0.62
    assert min(accuracies(signal, fill=7.0, mask_only=True)) > 0.95
    assert max(accuracies(signal, fill="others", mask_only=True)) < 0.62
    assert max(accuracies(signal, 0.6, fill="others", mask_only=True)) < 0.62
    assert min(accuracies(signal, 0.6, fill="others")) > 0.9  # what is kept still tells, and is the larger part


def test_the_region_of_half_the_mass_is_found_by_search():
    map = torch.zeros(12, 12)
    map[8:12, 0:4] = 1
    region = half_mass_region(map)
    assert region.where == "the lower left" and region.area == pytest.approx(2 / 36)
    centre = torch.zeros(12, 12)
    centre[4:8, 4:8] = 1
    assert half_mass_region(centre).where == "the centre"
    text = describe_map(map, 0.9, centre, 1.0)
    assert text == (
        "half in the lower left (6% of the area), concentrated (Gini 0.90), moved down and left by 47%, drift 1.00"
    )
    assert describe_map(map, 0.5, map, 0.0).endswith("moderately concentrated (Gini 0.50), in place, drift 0.00")
    assert describe_map(torch.zeros(4, 4), 0.0) == "zero everywhere"


class Pair(nn.Module):
    def forward(self, image):
        return image.mean((2, 3)), image


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n, x, t: insertion_deletion(n, x, t, x), "do not fit images"),
        (lambda n, x, t: insertion_deletion(n, x, t, x[:, 0], steps=0), "steps is 0"),
        (lambda n, x, t: insertion_deletion(n, x, t + 1, x[:, 0]), "target holds 1 … 4"),
        (lambda n, x, t: masking_contrast(n, x, x[:, 0], [4]), r"group is \[4\]; give classes among 0 … 3"),
        (lambda n, x, t: masking_contrast(n, x, x[:, 0], [1], []), r"against is \[\]"),
        (lambda n, x, t: grid_pointing_game(n, x, t, input_gradient), "3 images do not fill grids of 2x2"),
        (lambda n, x, t: aggregate_maps(x[:, 0], x[0, 0, 0]), "give one score a map"),
        (lambda n, x, t: diff_roar(x, x[:, 0], None, x, x[:, 0], t, kept=(1.0,)), "kept has 1.0"),
        (
            lambda n, x, t: diff_roar(x, x[:, 0], None, x, x[:, 0], t, fill="mean"),
            "fill is 'mean'; give a value, others",
        ),
        (lambda n, x, t: class_sensitivity(n, x, ["linear"]), "Class sensitivity needs an output"),
        (
            lambda n, x, t: disconnected_grid_game(Pair(), x[:1].repeat(4, 1, 1, 1), t[:1].repeat(4), input_gradient),
            r"Pair\(image\) must return logits \(4, K\) .* returned tuple",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RectifyError, match=words):
        call(*case(torch.float32))
