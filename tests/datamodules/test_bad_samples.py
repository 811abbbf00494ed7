"""The bound on bad samples means the same share on any number of processes that divide the reading."""

import numpy as np
import pytest

from lightning_rectify import collectives
from lightning_rectify.datamodules import BadSamples, ShardDataModule, build_shards, read_manifest
from lightning_rectify.errors import RectifyError

pytestmark = pytest.mark.filterwarnings("ignore:Bad ")


def stopped_in(bad_share, world, total=8000, share=0.01, epochs=12, seed=0):
    """The first epoch in which one of the ranks stops; every epoch is a new permutation divided over the ranks."""
    rng = np.random.default_rng(seed)
    bad = set(rng.permutation(total)[: round(bad_share * total)].tolist())
    now = [0]
    ranks = [BadSamples(share, total, readers=world, epoch=lambda: now[0]) for _ in range(world)]
    for now[0] in range(epochs):
        order = rng.permutation(total)
        for rank, counter in enumerate(ranks):
            try:
                for index in order[rank::world].tolist():
                    if index in bad:
                        counter.add(str(index), "corrupt")
            except RectifyError:
                return now[0]
    return None


@pytest.mark.parametrize("world", [1, 2, 8])
def test_the_bound_is_the_same_share_for_any_number_of_readers(world):
    assert stopped_in(0.009, world) is None
    assert stopped_in(0.03, world) == 0  # an eighth of it is less than 1 % of all
    assert stopped_in(0.0, world, share=0.0) is None
    assert stopped_in(1 / 8000, world, share=0.0) == 0


def test_what_every_process_meets_counts_against_all():
    counter = BadSamples(0.1, 100, readers=10)
    for number in range(10):
        counter.add(str(number), "no label", everywhere=True)
    with pytest.raises(RectifyError, match="11 of 100 samples"):
        counter.add("last", "no label", everywhere=True)


def test_a_rank_that_reads_as_it_goes_stops_by_its_own_share(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (200, 6, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(200) % 4)
    folder = build_shards(str(tmp_path / "a.npz"), tmp_path / "png", format="png", val=0.0, test=0.0)
    manifest, index = read_manifest(folder)
    with open(folder / manifest.shards[0]["name"], "r+b") as file:
        for sample in index.train[20:]:
            file.seek(index.offset[sample])
            file.write(b"\0" * 40)
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "rank", lambda: 0)
    data = ShardDataModule(str(folder), batch_size=50, cache="none", max_bad_samples=0.3)
    data.setup()
    # 30 % of the 100 samples it reads and three standard deviations; 60 would be 30 % of all
    with pytest.raises(RectifyError, match=r"47 of 100 samples are bad, more than data\.max_bad_samples 0\.3"):
        list(data.train_dataloader())
