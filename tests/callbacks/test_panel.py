"""The panel depends on the set of samples alone, and is what a brute-force choice over all of them gives."""

import pytest
import torch
from foreign import IMAGES, LABELS

from lightning_rectify.callbacks import ImageBatch, PanelChoice, choose_rows
from lightning_rectify.errors import RectifyError
from lightning_rectify.randomness import fold


def stream(places, size, index=True):
    for part in places.split(size):
        yield ImageBatch(IMAGES[part], LABELS[part], part if index else None)


def choose(batches, samples):
    choice = PanelChoice(samples)
    for batch in batches:
        choice.add(batch)
        assert sum(map(len, choice._held.values())) <= 2 * samples
    return choice.choose(torch.device("cpu"))


def brute_force(places, samples):
    """All samples at once: class by class in hash order, first ones first, at most an even share of each class."""
    classes = {}
    for index in places.tolist():
        classes.setdefault(int(LABELS[index]), []).append(index)
    share = -(-samples // min(samples, len(classes)))
    rows = []
    for label, members in classes.items():
        members.sort(key=lambda index: fold("panel", index))
        rows += [(place, fold("class", label), label, index) for place, index in enumerate(members[:share])]
    return sorted((label, fold("panel", index), index) for _, _, label, index in sorted(rows)[:samples])


@pytest.mark.parametrize("samples", [1, 4, 10, 16, 25, 64])
@pytest.mark.parametrize("stop", [12, 700])
def test_equals_brute_force_in_any_order_and_batch_size(samples, stop):
    places = torch.arange(stop)
    expected = [index for _, _, index in brute_force(places, samples)]
    for order, size in ((places, 32), (places.flip(0), 7), (places[torch.randperm(stop)], 500)):
        panel = choose(stream(order, size), samples)
        assert panel.ids == expected
        assert torch.equal(panel.images, IMAGES[expected])
        assert torch.equal(panel.labels, LABELS[expected])


@pytest.mark.parametrize("samples", [1, 7, 50, 300])
def test_many_classes_equal_brute_force_on_one_rank_and_on_two_and_few_images_are_copied(samples, monkeypatch):
    draw = torch.Generator().manual_seed(samples)
    labels = torch.randint(200, (3000,), generator=draw)
    images = torch.arange(3000.0).view(-1, 1, 1, 1)
    classes = {}
    for index, label in enumerate(labels.tolist()):
        classes.setdefault(label, []).append(index)
    share = -(-samples // min(samples, len(classes)))
    rows = []
    for label, members in classes.items():
        ordered = sorted(members, key=lambda index: fold("panel", index))[:share]
        rows += [(place, fold("class", label), label, index) for place, index in enumerate(ordered)]
    expected = [i for _, _, i in sorted((lab, fold("panel", i), i) for _, _, lab, i in sorted(rows)[:samples])]
    copies = []
    plain = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *a, **k: copies.append(1) or plain(x, *a, **k))

    def looked(places):
        choice = PanelChoice(samples)
        for part in places.split(37):
            choice.add(ImageBatch(images[part], labels[part], part))
        return choice

    choice = looked(torch.randperm(3000, generator=draw))
    # a class is drawn out of so many by chance: the harmonic sum of records, not every sample
    assert len(copies) < samples * (2 + share) * 8
    panel = choice.choose(torch.device("cpu"))
    assert panel.ids == expected and panel.images.flatten().tolist() == expected
    order = torch.randperm(3000, generator=draw)
    found = [
        (label, key, sample)
        for half in (order[:1400], order[1400:])
        for label, held in looked(half)._held.items()
        for sample, (key, _) in held.items()
    ]
    assert [sample for _, _, sample in choose_rows(found, samples, samples)] == expected


def test_it_is_stratified():
    panel = choose(stream(torch.arange(1500), 100), 25)
    counts = panel.labels.bincount(minlength=10)
    assert len(panel) == 25
    assert counts.min() == 2 and counts.max() == 3


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_can_keep_to_fewer_classes(classes):
    places, kept = torch.arange(700), sorted(range(10), key=lambda label: fold("class", label))[:classes]
    among = places[torch.isin(LABELS[:700], torch.tensor(kept))]
    expected = [index for _, _, index in brute_force(among, 16)]
    for order in (places, places.flip(0)):
        choice = PanelChoice(16, classes)
        for batch in stream(order, 32):
            choice.add(batch)
        assert choice.choose(torch.device("cpu")).ids == expected


def test_padding_does_not_count_twice():
    places = torch.cat([torch.arange(50), torch.arange(20)])
    assert choose(stream(places, 16), 16).ids == choose(stream(torch.arange(50), 16), 16).ids


def test_without_an_index_the_pixels_name_the_sample():
    forward = choose(stream(torch.arange(300), 32, index=False), 16)
    backward = choose(stream(torch.arange(300).flip(0), 11, index=False), 16)
    assert forward.ids == backward.ids
    assert len(set(forward.ids)) == 16
    assert torch.equal(forward.images, backward.images)


def test_nothing_seen_is_no_panel_and_two_sizes_are_an_error():
    assert PanelChoice(4).choose(torch.device("cpu")) is None
    choice = PanelChoice(4)
    choice.add(ImageBatch(torch.rand(1, 3, 8, 8), torch.tensor([0]), torch.tensor([0])))
    with pytest.raises(RectifyError, match="images of one size"):
        choice.add(ImageBatch(torch.rand(1, 3, 9, 8), torch.tensor([0]), torch.tensor([1])))
