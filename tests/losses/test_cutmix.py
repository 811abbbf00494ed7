"""CutMix against a loop over samples in numpy."""

import numpy as np
import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import CutMix, cutmix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spatial", [(17,), (16, 9), (6, 7, 8)])
def test_mask_is_one_clipped_box_and_its_area_is_the_label_weight(spatial):
    image = torch.rand(200, 2, *spatial)
    plan = CutMix().draw(image, generator())
    mixed = plan.apply(image).numpy()
    clipped = 0
    for i in range(200):
        mask = plan.mask[i, 0].numpy().astype(bool)
        hole = np.argwhere(~mask)
        if len(hole):
            low, high = hole.min(0), hole.max(0)
            assert np.prod(high - low + 1) == len(hole)  # a box
            clipped += bool((low == 0).any() or (high == np.array(spatial) - 1).any())
        assert plan.label_weights[i, 0].item() == pytest.approx(mask.mean(), abs=1e-6)
        expected = np.where(mask, image[i].numpy(), image[plan.partners[i, 1]].numpy())
        assert np.array_equal(mixed[i], expected)
        assert set(np.unique(plan.mask[i].numpy())) <= {0.0, 1.0}
    assert clipped > 20


def test_box_has_the_drawn_size_where_nothing_is_clipped():
    # one sample's box at λ = 0.75 has sides of half the image; centres are uniform, so every pixel is hit
    image = torch.zeros(3000, 1, 16, 16)
    from lightning_rectify.losses.mixing.cutmix import _boxes

    hole = _boxes(image, torch.full((3000,), 0.75), generator())[:, 0] == 0
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert rows.max() == columns.max() == 8
    # an unclipped box of 8 rows starts at 0..8 of the 16 possible starts -4..11
    assert (rows == 8).float().mean().item() == pytest.approx(9 / 16, abs=0.04)
    hits = hole.float().mean(0)
    assert hits[8, 8].item() == pytest.approx(0.25, abs=0.04)
    assert (hits[0, 0] > 0) & (hits[15, 15] > 0)


def test_boxes_are_per_sample_unless_asked():
    image = torch.rand(32, 1, 16, 16)
    assert CutMix().draw(image, generator()).label_weights[:, 0].unique().numel() > 15
    assert CutMix(per="batch").draw(image, generator()).label_weights[:, 0].unique().numel() == 1


def test_functional_twin():
    image, label = torch.rand(8, 3, 6, 6), torch.arange(8)
    mixed, target = cutmix(image, label, 0.7, generator=generator(2))
    own, partner = target.weights[:, 0].double(), target.labels[:, 1]  # the labels are the positions
    assert torch.equal(target.labels[:, 0], label)
    assert torch.equal(partner.sort().values, label)
    for i in range(8):
        kept = (mixed[i] == image[i]).all(0).numpy()
        pasted = (mixed[i] == image[partner[i]]).all(0).numpy()
        assert (kept | pasted).all()
        if partner[i] != i:
            assert own[i].item() == pytest.approx(kept.mean(), abs=1e-6)
            hole = np.argwhere(~kept)
            assert not len(hole) or np.prod(np.ptp(hole, axis=0) + 1) == len(hole)
    logits = torch.randn(8, 8)
    losses = -logits.double().log_softmax(1)
    by_hand = own * losses[label, label] + (1 - own) * losses[label, partner]
    assert target.loss(logits).item() == pytest.approx(by_hand.mean().item(), rel=1e-6)


@pytest.mark.parametrize("arguments", [{"alpha": 0.0}, {"per": "pair"}, {"stop": 2.0}])
def test_bad_arguments_name_themselves(arguments):
    with pytest.raises(RectifyError, match=next(iter(arguments))):
        CutMix(**arguments)


def test_vectors_have_no_box():
    with pytest.raises(RectifyError, match="axis"):
        CutMix().draw(torch.rand(4, 3), generator())
