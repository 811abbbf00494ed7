"""The four benchmarks' archives, in miniature and in their own layout."""

import numpy as np
import pytest
from PIL import Image

from lightning_rectify.datamodules import ShardDataModule, build_shards
from lightning_rectify.errors import RectifyError


def picture(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (shade, 0, 0)).save(path)


def cub(folder):
    lines = []
    for number in (*range(1, 11), *range(101, 105)):
        for place in range(3):
            path = f"{number:03d}.Bird_{number}/a_{number}_{place}.jpg"
            picture(folder / "images" / path, number)
            lines.append(f"{len(lines) + 1} {path}")
    (folder / "images.txt").write_text("\n".join(lines))


def cars196(folder):
    from scipy.io import savemat

    rows = [(f"car_ims/{n:03d}_{place}.jpg", n) for n in (*range(1, 11), *range(99, 103)) for place in range(3)]
    for path, number in rows:
        picture(folder / path, number)
    annotations = np.array(rows, dtype=[("relative_im_path", object), ("class", int)])
    names = np.array([f"Car {n}" for n in range(1, 197)], dtype=object)
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": names})


def sop(folder):
    for name, numbers in (("Ebay_train.txt", range(1, 11)), ("Ebay_test.txt", range(11, 15))):
        lines = ["image_id class_id super_class_id path"]
        for number in numbers:
            for place in range(3):
                path = f"bicycle_final/{number}_{place}.JPG"
                picture(folder / path, number)
                lines.append(f"{len(lines)} {number} 1 {path}")
        (folder / name).write_text("\n".join(lines))


def inaturalist2018(folder):
    for name, numbers in (("train", range(10)), ("test", range(10, 14))):
        paths = [f"train_val2018/Plantae/{number}/{place}.jpg" for number in numbers for place in range(3)]
        for path in paths:
            picture(folder / path, 9)
        lists = folder / "Inat_dataset_splits"
        lists.mkdir(exist_ok=True)
        (lists / f"Inaturalist_{name}_set1.txt").write_text("\n".join(paths))


@pytest.mark.parametrize("kind", [cub, cars196, sop, inaturalist2018], ids=lambda kind: kind.__name__)
def test_protocol(tmp_path, kind):
    root = tmp_path / "archive"
    root.mkdir()
    kind(root)
    build_shards(f"{kind.__name__}:{root}", tmp_path / "shards", size=16, val=0.2, calibration=0.2)
    data = ShardDataModule(str(tmp_path / "shards"))
    data.setup()
    classes = {split: set(data.index.label[ids].tolist()) for split, ids in data.ids.items()}
    assert {split: len(found) for split, found in classes.items()} == {
        "train": 6,
        "val": 2,
        "calibration": 2,
        "test": 4,
    }
    assert classes["test"] == {10, 11, 12, 13}  # the ones the protocol tests on, numbered last
    assert (data.manifest.height, data.manifest.width, data.manifest.channels) == (16, 16, 3)


def test_the_published_protocol_trains_on_all_training_classes(tmp_path):
    root = tmp_path / "archive"
    root.mkdir()
    cub(root)
    build_shards(f"cub:{root}", tmp_path / "shards", size=16, val=0.0, calibration=0.0)
    data = ShardDataModule(str(tmp_path / "shards"))
    data.setup()
    assert len(data.ids["train"]) == 30 and len(data.ids["test"]) == 12 and not len(data.ids["val"])


@pytest.mark.parametrize("kind", ["cub", "cars196", "sop", "inaturalist2018"])
def test_another_folder_is_named(tmp_path, kind):
    with pytest.raises(RectifyError, match=f"{kind}:.*not the unpacked archive"):
        build_shards(f"{kind}:{tmp_path}", tmp_path / "shards")
