import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from lightning_rectify.datamodules import (
    Cutout,
    Flip,
    PadCrop,
    RandAugment,
    ShardDataModule,
    apply_operation,
    augmented,
    keyed_uniform,
    view_keys,
)
from lightning_rectify.datamodules.rand_augment import OPERATIONS
from lightning_rectify.errors import RectifyError

KEYS = torch.from_numpy(view_keys(np.arange(400), 0, 0, 0))


def images(count=400, channels=3, size=12):
    # no zeros, so that zero marks what was cut out or padded
    return torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("augment", [PadCrop(3), Flip(), Cutout(5), RandAugment(2, 15)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_hangs_on_its_key_alone(augment, channels):
    image = images(64, channels)
    kept = image.clone()
    whole = augment(image, KEYS[:64])
    assert torch.equal(image, kept)  # out of place
    assert whole.shape == image.shape and whole.dtype == image.dtype
    assert not torch.equal(whole, image)
    order = torch.randperm(64)[:20]  # another batch, another order: as on another rank
    assert torch.equal(augment(image[order], KEYS[:64][order]), whole[order])
    assert not torch.equal(augment(image, KEYS[64:128]), whole)
    assert not torch.equal(augment(image, KEYS[:64], 1), whole)


def test_pad_crop_is_a_shift_and_all_shifts_are_equally_likely():
    image = images()
    out = PadCrop(2)(image, KEYS)
    padded = F.pad(image, [2] * 4)
    counts = torch.zeros(5, 5)
    for before, after in zip(padded, out, strict=True):
        hits = [(y, x) for y in range(5) for x in range(5) if torch.equal(before[:, y : y + 12, x : x + 12], after)]
        assert len(hits) == 1
        counts[hits[0]] += 1
    chi2 = ((counts - 16) ** 2 / 16).sum()
    assert chi2 < 50  # 24 degrees of freedom: p < 0.002


def test_flip_mirrors_a_share():
    image = images()
    out = Flip(0.25)(image, KEYS)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, image, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, image, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 70 <= sum(mirrored) <= 130
    assert torch.equal(Flip(0.0)(image, KEYS), image)
    assert torch.equal(Flip(1.0)(image, KEYS), image.flip(-1))


@pytest.mark.parametrize("size", [4, 5])
def test_cutout_is_one_square_clipped_at_the_border(size):
    image = images()
    out = Cutout(size)(image, KEYS)
    whole = 0
    for before, after in zip(image, out, strict=True):
        cut = (after == 0).all(0)
        assert torch.equal(after[:, ~cut], before[:, ~cut])
        rows, columns = cut.any(1).sum(), cut.any(0).sum()
        assert cut.sum() == rows * columns and 0 < rows <= size and 0 < columns <= size
        whole += int(rows == columns == size)
    share = ((12 - size + 1) / 12) ** 2  # centres from which nothing is clipped
    assert abs(whole / 400 - share) < 0.1


def test_uniform_numbers_are_uniform_and_unrelated():
    u = keyed_uniform(torch.from_numpy(view_keys(np.arange(20000), 1)), 7, 3).double()
    assert u.min() >= 0 and u.max() < 1
    assert torch.allclose(u.mean(0), torch.full((3,), 0.5).double(), atol=0.01)
    assert torch.allclose(u.var(0), torch.full((3,), 1 / 12).double(), atol=0.002)
    both = torch.cat(
        [u, keyed_uniform(torch.from_numpy(view_keys(np.arange(20000), 1)), 8, 3).double(), u.roll(1, 0)], 1
    )
    assert (torch.corrcoef(both.T) - torch.eye(9)).abs().max() < 0.03


@pytest.mark.parametrize("name", OPERATIONS[1:])
@pytest.mark.parametrize("sign", [1, -1])
def test_operations_are_torchvisions(name, sign):
    """The kept library: the same operation through RandAugment's own table of magnitudes."""
    image, size, bin_ = images(4, size=16), 16, 15
    names = {"shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX", "translate_y": "TranslateY"}
    theirs = names.get(name, name.replace("autocontrast", "AutoContrast").title().replace("contrast", "Contrast"))
    theirs = "AutoContrast" if name == "autocontrast" else theirs
    library = v2.RandAugment(magnitude=bin_, num_magnitude_bins=31)
    magnitudes, signed = library._AUGMENTATION_SPACE[theirs]
    table = magnitudes(31, size, size)
    magnitude = 0.0 if table is None else float(table[bin_]) * (sign if signed else 1)
    expected = library._apply_image_or_video_transform(
        image, theirs, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={}
    )
    got = apply_operation(name, image, bin_ / 30, sign)
    assert torch.equal(got, expected)


def test_rand_augment_draws_every_operation_equally_often(monkeypatch):
    from lightning_rectify.datamodules import rand_augment

    counts = {}

    def count(name, image, strength, sign):
        counts[name, sign] = counts.get((name, sign), 0) + len(image)
        return image

    monkeypatch.setattr(rand_augment, "apply_operation", count)
    RandAugment(2, 9)(images(400), KEYS)
    per_name = {name: sum(n for (known, _), n in counts.items() if known == name) for name in OPERATIONS[1:]}
    assert all(25 <= n <= 95 for n in per_name.values()), per_name  # 800/14 = 57
    assert 25 / 95 < counts["rotate", 1] / counts["rotate", -1] < 95 / 25


def test_no_random_state_is_touched():
    before = torch.random.get_rng_state()
    for augment in (PadCrop(), Flip(), Cutout(), RandAugment()):
        augment(images(8), KEYS[:8])
    images_drawn = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    for _ in range(4):
        images(8)
    assert torch.equal(images_drawn, torch.random.get_rng_state())


def test_views_of_the_data_module_differ():
    module = ShardDataModule("digits", augment=[PadCrop(4), PadCrop(4)])
    image = images(16)
    views = augmented(image, KEYS[:16], module.augment, views=3)
    assert views.shape == (16, 3, 3, 12, 12)
    assert torch.equal(views[:, 0], augmented(image, KEYS[:16], module.augment))
    assert not torch.equal(views[:, 0], views[:, 1]) and not torch.equal(views[:, 1], views[:, 2])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PadCrop(-1), "pad is -1"),
        (lambda: Flip(1.5), "probability is 1.5"),
        (lambda: Cutout(0), "size is 0"),
        (lambda: RandAugment(0), "operations is 0"),
        (lambda: RandAugment(2, 31), "magnitude 31"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(RectifyError, match=message):
        make()
