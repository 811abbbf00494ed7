"""FMix against its definition: spectrum, counts, label weight; spectra are read back by an FFT of another library."""

import numpy as np
import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import FMix, fmix, fmix_masks, random_fields, upper_cut


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def energy(fields: torch.Tensor) -> np.ndarray:
    """Mean energy per frequency of (n, *shape) fields."""
    values = fields.double().numpy()
    return (np.abs(np.fft.fftn(values, axes=range(1, values.ndim))) ** 2).mean(0)


def transitions(masks: torch.Tensor) -> torch.Tensor:
    """Number of changes around the circle of (n, 1, length) masks."""
    flat = masks.flatten(1)
    return (flat != flat.roll(1, 1)).sum(1)


@pytest.mark.parametrize("decay", [1.0, 3.0])
def test_isotropic_spectrum_is_the_formula(decay):
    e = energy(random_fields(6000, (16, 16), decay, generator=generator()))
    f = np.fft.fftfreq(16)
    radius = np.hypot(f[:, None], f[None])
    radius[0, 0] = np.inf
    expected = radius ** (-2 * decay)
    share, wanted = e / e.sum(), expected / expected.sum()
    assert share[0, 0] < 1e-12
    loud = wanted > 1e-3
    np.testing.assert_allclose(share[loud], wanted[loud], rtol=0.08)
    beyond = np.ix_(np.abs(f) * 16 > 1.5, np.ones(16, bool))
    assert share[beyond].sum() == pytest.approx(wanted[beyond].sum(), rel=0.08)
    assert share[beyond].sum() > 0.01


def test_isotropic_energy_is_equal_along_both_axes():
    e = energy(random_fields(6000, (32, 32), generator=generator(1)))
    vertical, horizontal = e[1:, 0].sum() / e.sum(), e[0, 1:].sum() / e.sum()
    assert vertical == pytest.approx(horizontal, rel=0.04)


def test_official_spectrum_knows_only_horizontal_frequencies_0_and_1():
    e = energy(random_fields(200, (32, 32), spectrum="official", generator=generator()))
    e[0, 0] = 0
    assert e[:, [0, 1, -1]].sum() / e.sum() == pytest.approx(1, abs=1e-9)
    assert e[:, [1, -1]].sum() / e.sum() > 0.05


def test_official_spectrum_equals_the_public_description():
    # rows 0 and 1 of the (h, w//2+1) half spectrum become real and imaginary part; numpy does the inverse transform
    h, w, decay = 12, 10, 2.0
    field = random_fields(1, (h, w), decay, "official", generator(3))[0]
    noise = torch.randn(1, 2, w // 2 + 1, 2, generator=generator(3))[0].double().numpy()
    f = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None])
    scaled = noise * np.maximum(f, 1 / max(h, w))[:2, :, None] ** -decay
    expected = np.fft.irfftn(scaled[0] + 1j * scaled[1], (h, w))
    np.testing.assert_allclose(field.double().numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_one_dimensional_masks():
    lam = torch.full((300,), 0.5)
    isotropic = transitions(fmix_masks((200,), lam, decay=1.5, generator=generator()))
    assert (isotropic > 2).float().mean() > 0.5  # not single intervals
    official = transitions(fmix_masks((200,), lam, spectrum="official", generator=generator()))
    assert (official <= 2).all()


@pytest.mark.parametrize("shape", [(200,), (32, 32), (20, 33), (9, 10, 11)])
@pytest.mark.parametrize("spectrum", ["isotropic", "official"])
def test_masks_hold_the_wanted_share(shape, spectrum):
    lam = torch.rand(64, generator=generator()).double().float()
    lam[0], lam[1] = 0, 1
    masks = fmix_masks(shape, lam, spectrum=spectrum, generator=generator(1))
    assert masks.shape == (64, 1, *shape)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    realised = masks.flatten(1).double().mean(1)
    assert (realised - lam).abs().max() <= 5 / np.prod(shape) + 1e-6
    assert realised[0] == 0
    assert realised[1] == 1


def test_cut_against_a_sort():
    field = random_fields(200, (40, 40), generator=generator()).flatten(1)
    count = torch.randint(0, 1601, (200,), generator=generator(1))
    above = (field > upper_cut(field, count)[:, None]).sum(1)
    assert (above - count).abs().max() <= 3
    exact = (field > upper_cut(field, count, passes=40)[:, None]).sum(1)
    ordered = field.sort(1, descending=True).values
    inside = (count > 0) & (count < 1600)
    cut = ordered.gather(1, count.clamp(1, 1599)[:, None])
    by_sort = (field > cut).sum(1)
    assert torch.equal(exact[inside], by_sort[inside])


def test_soft_masks_keep_the_order_and_the_mean():
    lam = torch.linspace(0, 1, 21)
    soft = fmix_masks((32, 32), lam, max_soft=0.2, generator=generator())
    hard = fmix_masks((32, 32), lam, generator=generator())
    assert soft.dtype == torch.float32
    assert soft.min() == 0
    assert soft.max() == 1
    assert (soft.flatten(1).mean(1) - lam).abs().mean() < 0.01
    between = ((soft > 0) & (soft < 1)).flatten(1).float().mean(1)
    assert torch.allclose(between, 2 * torch.minimum(lam, 1 - lam).clamp_max(0.2), atol=0.01)
    assert torch.equal(soft > 0.5, hard == 1)  # same field, same cut


def test_label_weight_is_the_realised_mean():
    image = torch.rand(16, 3, 12, 12)
    for objective in (FMix(), FMix(max_soft=0.3), FMix(per="batch")):
        plan = objective.draw(image, generator())
        assert plan.mask is not None
        mean = plan.mask.double().flatten(1).mean(1)
        assert torch.allclose(plan.label_weights[:, 0].double(), mean, atol=1e-6)
        by_hand = plan.mask * image + (1 - plan.mask) * image[plan.partners[:, 1]]
        assert torch.allclose(plan.apply(image), by_hand, atol=1e-6)


def test_reformulated_loss_is_the_same_in_expectation():
    # a loss linear in the image makes the expectation cheap: E over λ, masks and partners of both forms
    torch.manual_seed(0)
    image, label = torch.rand(8, 1, 8, 8), torch.arange(8) % 2
    weight = torch.randn(64, 2)
    means = []
    for reformulate in (False, True):
        objective = FMix(reformulate=reformulate)
        g = generator(5)
        losses = []
        for _ in range(800):
            plan = objective.draw(image, g)
            logits = plan.apply(image).flatten(1) @ weight
            losses.append(plan.target(label).loss(logits))
        losses = torch.stack(losses)
        means.append((losses.mean(), losses.std() / len(losses) ** 0.5))
    (one, error_one), (two, error_two) = means
    assert abs(one - two) < 4 * (error_one**2 + error_two**2) ** 0.5
    assert FMix(reformulate=True).draw(image, generator()).label_weights.shape == (8, 1)


def test_functional_twin():
    image, label = torch.rand(8, 3, 6, 6), torch.arange(8)
    mixed, target = fmix(image, label, 0.7, decay=2.0, max_soft=0.1, generator=generator(2))
    own, partner = target.weights[:, 0].double(), target.labels[:, 1]  # the labels are the positions
    assert torch.equal(target.labels[:, 0], label)
    assert torch.equal(partner.sort().values, label)
    moved = [i for i in range(8) if partner[i] != i]
    assert moved
    for i in moved:
        mine, other = image[i].double(), image[partner[i]].double()
        # the mask read back from what it did, by the channel in which it did most
        channel = (mine - other).abs().argmax(0, keepdim=True)
        mask = ((mixed[i] - other) / (mine - other)).gather(0, channel)[0]
        assert mask.min() > -1e-4 and mask.max() < 1 + 1e-4
        assert torch.allclose(mixed[i].double(), mask * mine + (1 - mask) * other, atol=1e-4)
        assert own[i].item() == pytest.approx(mask.mean().item(), abs=1e-4)
    logits = torch.randn(8, 8)
    losses = -logits.double().log_softmax(1)
    by_hand = own * losses[label, label] + (1 - own) * losses[label, partner]
    assert target.loss(logits).item() == pytest.approx(by_hand.mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha": 0.0},
        {"decay": 0.0},
        {"decay": float("nan")},
        {"decay": float("inf")},
        {"max_soft": 0.6},
        {"spectrum": "paper"},
        {"per": "pair"},
        {"stop": 1.5},
    ],
)
def test_bad_arguments_name_themselves(arguments):
    with pytest.raises(RectifyError, match=next(iter(arguments))):
        FMix(**arguments)


def test_images_without_spatial_axes_are_refused():
    with pytest.raises(RectifyError, match="shape"):
        FMix().draw(torch.rand(4, 3), generator())


def test_shares_of_masks_outside_0_and_1_are_the_limits():
    masks = fmix_masks((8, 8), torch.tensor([-0.5, 1.5]), max_soft=0.2, generator=generator())
    assert masks[0].max() == 0
    assert masks[1].min() == 1


@pytest.mark.parametrize("lam", [0.5, torch.tensor(0.5), torch.tensor([1, 0])])
def test_shares_of_masks_are_a_float_vector(lam):
    with pytest.raises(RectifyError, match=r"lam is .*give a float tensor"):
        fmix_masks((8, 8), lam)


def test_bytes_are_not_mixed():
    with pytest.raises(RectifyError, match=r"Images to mix are torch\.uint8"):
        fmix(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
