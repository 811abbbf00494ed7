"""The null block says nothing of the label, neither by what it holds nor by where it stands; the other block does."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lightning_rectify.datamodules import ShardDataModule, build_shards, null_block, signal_block
from lightning_rectify.datamodules.sources import open_source
from lightning_rectify.errors import RectifyError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Images and labels of the splits of block_digits, as the data module gives them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFY_DATA", str(tmp_path_factory.mktemp("data")))
        data = ShardDataModule("block_digits")
        data.prepare_data()
        data.setup()
        return {name: (data.images(data.ids[name]), data.index.label[data.ids[name]]) for name in ("train", "test")}


def score(built, block):
    """Test accuracy of a linear model that sees one kind of block where it stands, and black in the other's place."""
    seen = {}
    for name, (images, label) in built.items():
        signal = signal_block(images)[:, None]
        kept = images.float() / 255 * (signal if block == "signal" else ~signal)
        seen[name] = kept.flatten(1).numpy(), label
    return LogisticRegression(max_iter=300).fit(*seen["train"]).score(*seen["test"])


def test_only_the_signal_block_tells_the_label(built):
    samples = len(built["test"][1])
    # the place of the null block is one bit: what a linear model makes of it is chance, a tenth, and its deviation
    assert score(built, "null") < 0.1 + 4 * (0.09 / samples) ** 0.5
    assert score(built, "signal") > 0.85


def test_every_image_is_the_original_and_the_null_block(built):
    original, blocks = open_source("digits"), open_source("blocks:digits")
    null = null_block(8, 8)
    below = []
    for position in range(len(original.labels)):
        upper, lower = np.split(blocks.image(position), 2)
        below.append(np.array_equal(upper, null))
        signal, other = (lower, upper) if below[-1] else (upper, lower)
        assert np.array_equal(signal, original.image(position)) and np.array_equal(other, null)
    counts = np.bincount(original.labels[np.array(below)], minlength=10)
    assert np.array_equal(counts, -(-np.bincount(original.labels) // 2))  # half of each class, rounded up
    images, _ = built["train"]
    some = signal_block(images)
    assert torch.equal(some, signal_block(images.float() / 255))
    assert some.flatten(1).sum(1).unique().tolist() == [64] and 0.4 < some[:, 0, 0].float().mean() < 0.6


def test_a_square_would_cut_the_blocks(tmp_path):
    with pytest.raises(RectifyError, match="size is 14, but a square would cut through the blocks of blocks:digits"):
        build_shards("blocks:digits", tmp_path / "b", size=14)


def test_the_same_bytes_each_time(tmp_path):
    for name in "ab":
        build_shards("blocks:digits", tmp_path / name)
    shard = "shard-000000.tar"
    assert (tmp_path / "a" / shard).read_bytes() == (tmp_path / "b" / shard).read_bytes()
