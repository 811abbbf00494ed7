"""A mask on disk: its size, what is refused, and what its description says."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import WeightMask, architecture, mask_overlap, mask_sanity, saliency_masks


def network(out=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1000, 100), nn.Linear(100, out))


def make(net, density=0.25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in net.named_parameters()}
    return next(saliency_masks(scores, [density], architecture=architecture(net), settings={"loss": "cross_entropy"}))


def test_what_is_read_is_what_was_written(tmp_path):
    net = network()
    mask = make(net)
    mask.save(tmp_path / "mask.safetensors")
    read = WeightMask.load(tmp_path / "mask.safetensors")
    assert list(read.shapes) == [name for name, _ in net.named_parameters()]
    assert (read.density, read.settings, read.digest) == (
        0.25,
        {"scope": "global", "loss": "cross_entropy"},
        mask.digest,
    )
    for name in mask.shapes:
        assert torch.equal(read.bits(name), mask.bits(name))
    read.check_fits(net, "mask")
    assert os.path.getsize(tmp_path / "mask.safetensors") < mask.size / 8 + 2000
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "mask.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_other_bits_have_another_digest():
    net = network()
    mask, other = make(net), make(net, seed=1)
    assert mask.digest == make(net).digest != other.digest


def test_a_mask_of_another_architecture_is_refused():
    mask = make(network())
    with pytest.raises(
        RectifyError, match=r"x is a mask of another architecture \(1.weight is \(3, 100\) there and \(4"
    ):
        mask.check_fits(network(4), "x")
    with pytest.raises(RectifyError, match=r"0.weight is \(100, 1000\) there and missing here"):
        mask.check_fits(nn.Identity(), "x")
    larger = network().append(nn.Linear(3, 3))
    with pytest.raises(RectifyError, match="parameters that it does not rank differ"):
        mask.check_fits(larger, "x")


def changed(path):
    """The same file with one bit turned, its metadata kept."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["0.weight"][0] ^= 1
    save_file(tensors, path, metadata)


def foreign(path):
    save_file({"0.weight": torch.zeros(3)}, path)


def later(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "version": "99"})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (changed, "was changed since it was written"),
        (foreign, "holds no weight mask"),
        (later, "has version 99 and this package reads 1"),
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text("nothing"), "is no safetensors file"),
    ],
)
def test_bad_files_are_named(tmp_path, spoil, words):
    path = tmp_path / "mask.safetensors"
    make(network()).save(path)
    spoil(path)
    with pytest.raises(RectifyError, match=words):
        WeightMask.load(path)


def test_the_description_is_that_of_the_bits():
    net = network()
    mask = make(net, 0.25)
    about = mask_sanity(mask)
    bits = {name: mask.bits(name).numpy() for name in mask.shapes}
    assert about["kept"] == sum(map(np.count_nonzero, bits.values())) == mask.size // 4
    assert about["weights"] == sum(weight.numel() for weight in net.parameters())
    assert about["share"] == {name: pytest.approx(value.mean()) for name, value in bits.items()}
    # independent bits meet in density · ones places, give or take a few standard deviations
    assert abs(about["overlap_with_random"] - 0.25) < 5 * (0.25 * 0.75 / about["kept"]) ** 0.5


def test_overlap_of_two_masks():
    net = network()
    mask, other = make(net), make(net, seed=1)
    both = sum(int((mask.bits(name) & other.bits(name)).sum()) for name in mask.shapes)
    assert mask_overlap(mask, other) == both / mask.ones
    assert mask_overlap(mask, mask) == 1
    assert mask_overlap(make(net, 0.1), make(net, 0.5)) == 1  # a lower density keeps a part of a higher one's
