"""A cache folder holds what it was asked for: another source is another folder, a changed file is refused."""

import numpy as np
import pytest

from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.datamodules.known import KNOWN, resolve
from lightning_rectify.errors import RectifyError


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RECTIFY_DATA", str(tmp_path / "home"))


def write(path, value):
    images = np.full((40, 6, 6, 3), value, np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 4)
    return str(path)


def brightness(**build):
    data = ShardDataModule("foo", batch_size=4, build=build)
    data.prepare_data()
    data.setup()
    return int(data.images(np.arange(40)).unique())


def test_another_file_is_another_folder(tmp_path, monkeypatch):
    a, b = write(tmp_path / "a.npz", 10), write(tmp_path / "b.npz", 20)
    assert brightness(source=a, val=0.2) == 10
    assert brightness(source=b, val=0.2) == 20
    assert brightness(source=a, val=0.2) == 10
    for name, value in (("one", 30), ("two", 40)):  # the same relative path in two working folders
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.npz", value)
        monkeypatch.chdir(tmp_path / name)
        assert brightness(source="a.npz", val=0.2) == value


def test_a_changed_file_is_refused(tmp_path):
    a = write(tmp_path / "a.npz", 10)
    assert brightness(source=a) == 10
    write(tmp_path / "a.npz", 20)
    with pytest.raises(RectifyError, match=r"a\.npz has changed since .*foo-.* was built from it; remove that folder"):
        brightness(source=a)
    (tmp_path / "a.npz").unlink()  # the shards are all that is needed
    assert brightness(source=a) == 10


def test_the_place_of_a_known_source_is_part_of_its_folder(tmp_path):
    def folder(**build):
        return resolve("cifar10", build)[0].name

    plain = folder()
    assert plain == "cifar10"
    assert folder(source="torchvision:CIFAR10") == plain  # what is known anyway, as the config states it
    npz, root = folder(source=str(tmp_path / "c.npz")), folder(root=str(tmp_path))
    assert len({plain, npz, root, folder(source="c.npz"), folder(root="/elsewhere"), folder(val=0.2)}) == 6
    assert resolve("fashion_mnist", dict(KNOWN["fashion_mnist"]))[0].name == "fashion_mnist"
    assert resolve("x", {"source": "cub:a"})[0] != resolve("x", {"source": "cub:b"})[0]


def test_verify_reads_every_shard_before_training(tmp_path):
    source = write(tmp_path / "a.npz", 10)
    data = ShardDataModule("foo", build={"source": source}, verify=True)
    data.prepare_data()
    data.setup()
    shard = data.manifest.folder / data.manifest.shards[0]["name"]
    content = bytearray(shard.read_bytes())
    content[600] ^= 1  # one bit of one pixel: size and headers stay
    shard.write_bytes(content)
    ShardDataModule("foo", build={"source": source}).prepare_data()
    with pytest.raises(RectifyError, match=r"shard-000000\.tar has changed since it was built"):
        data.prepare_data()
    with pytest.raises(RectifyError, match=r"data\.verify needs a manifest"):
        ShardDataModule("x-{0..1}.tar", verify=True).prepare_data()
