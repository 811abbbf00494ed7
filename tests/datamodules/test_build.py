import gzip
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from lightning_rectify.datamodules import ShardReader, build_shards, read_manifest, verify_shards
from lightning_rectify.errors import RectifyError


def small_npz(path, train=60, test=20, size=6, channels=3, **more):
    rng = np.random.default_rng(0)

    def shape(n):
        return (n, size, size, channels) if channels else (n, size, size)

    arrays = {
        "train_images": rng.integers(0, 256, shape(train), dtype=np.uint8),
        "train_labels": np.arange(train) % 4,
        "test_images": rng.integers(0, 256, shape(test), dtype=np.uint8),
        "test_labels": np.arange(test) % 4,
    }
    np.savez(path, **{**arrays, **more})
    return arrays


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(header + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return build_shards("digits", tmp_path_factory.mktemp("digits") / "digits", shard_size=700)


def test_digits_are_what_scikit_learn_has(digits):
    from sklearn.datasets import load_digits

    manifest, index = read_manifest(digits)
    images, faults = ShardReader(manifest, index).images(np.array([5, 1796, 700, 5]))
    expected = np.round(load_digits().images[[5, 1796, 700, 5]] * 255 / 16)
    assert not faults
    assert np.array_equal(images[:, 0].numpy(), expected)
    assert np.array_equal(index.label, load_digits().target)
    train = load_digits().images[index.train] / 16
    assert manifest.mean[0] == pytest.approx(train.mean(), abs=1e-3)
    assert manifest.std[0] == pytest.approx(train.std(), abs=1e-3)


def test_splits_are_disjoint_complete_and_stratified(digits):
    manifest, index = read_manifest(digits)
    assert sorted(np.concatenate([index.train, index.val, index.test])) == list(range(1797))
    for split, share in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
        counts = np.bincount(index.label[getattr(index, split)], minlength=10)
        assert counts.tolist() == manifest.counts[split]
        assert np.abs(counts - share * np.bincount(index.label)).max() <= 1.5


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_builds_are_equal_byte_for_byte(tmp_path, encoding):
    small_npz(tmp_path / "a.npz")
    for name in ("one", "two"):
        build_shards(str(tmp_path / "a.npz"), tmp_path / name, name="a", format=encoding)
    for file in (tmp_path / "one").iterdir():
        if file.suffix != ".npz":  # zip members carry the time
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file
    verify_shards(read_manifest(tmp_path / "one")[0])


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_reader_and_webdataset_give_the_source_back(tmp_path, encoding, channels):
    arrays = small_npz(tmp_path / "a.npz", channels=channels if channels == 3 else 0)
    folder = build_shards(str(tmp_path / "a.npz"), tmp_path / "out", format=encoding, shard_size=32)
    manifest, index = read_manifest(folder)
    order = np.random.default_rng(1).permutation(80)
    images, _ = ShardReader(manifest, index).images(order)
    expected = np.concatenate([arrays["train_images"], arrays["test_images"]]).reshape(80, 6, 6, channels)
    assert np.array_equal(images.numpy(), expected.transpose(0, 3, 1, 2)[order])
    assert len(manifest.shards) == 3
    assert set(index.test) == set(range(60, 80))  # the official test split
    assert len(index.val) == 8  # 15 samples a class, 10 % rounded to 2

    import webdataset as wds

    samples = list(wds.WebDataset([str(folder / s["name"]) for s in manifest.shards], shardshuffle=False))
    assert [s["__key__"] for s in samples] == index.key.tolist()
    assert [int(s["cls"]) for s in samples] == index.label.tolist()
    if encoding == "png":
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(samples[7]["png"]))).reshape(6, 6, -1), expected[7])


def test_idx_folder(tmp_path):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 5))
    write_idx(folder / "train-images-idx3-ubyte.gz", images[:30])
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(30) % 10)
    write_idx(folder / "t10k-images-idx3-ubyte", images[30:])
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(10))
    manifest, index = read_manifest(build_shards(str(folder), tmp_path / "out"))
    assert manifest.class_names[9] == "Ankle boot"
    assert np.array_equal(ShardReader(manifest, index).images(np.arange(40))[0][:, 0].numpy(), images)


def test_torchvision_by_name(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28))
    write_idx(raw / "train-images-idx3-ubyte", images[:30])
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(30) % 10)
    write_idx(raw / "t10k-images-idx3-ubyte", images[30:])
    write_idx(raw / "t10k-labels-idx1-ubyte", np.arange(10))
    manifest, index = read_manifest(build_shards("torchvision:MNIST", tmp_path / "out", root=tmp_path))
    assert manifest.classes == 10
    assert manifest.class_names[0] == "0 - zero"
    assert np.array_equal(ShardReader(manifest, index).images(np.arange(40))[0][:, 0].numpy(), images)


def test_image_folder_resized_and_with_a_bad_file(tmp_path):
    for number in range(20):
        folder = tmp_path / "set" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10 + number % 3, 12), (number, 0, 0)).save(folder / f"{number}.x.png")
    (tmp_path / "set" / "cat" / "1.x.png").write_bytes(b"no image")
    with pytest.raises(RectifyError, match=r"max_bad 0\.01.*cat/1"):
        build_shards(str(tmp_path / "set"), tmp_path / "out", size=8)
    assert not list(tmp_path.glob("*out*"))  # nothing half-done stays
    with pytest.warns(UserWarning, match="cat/1"):
        folder = build_shards(str(tmp_path / "set"), tmp_path / "out", size=8, max_bad=0.1)
    manifest, index = read_manifest(folder)
    assert (manifest.class_names, manifest.samples, manifest.height) == (["cat", "dog"], 19, 8)
    assert manifest.skipped == ["cat/1.x"]
    assert "cat/3_x" in index.key  # the key of WebDataset ends at the first dot
    with pytest.raises(RectifyError, match="set size to resize"):
        build_shards(str(tmp_path / "set"), tmp_path / "other", max_bad=0.1)


def test_command_line(tmp_path):
    small_npz(tmp_path / "a.npz")
    command = [sys.executable, "-m", "lightning_rectify.datamodules.build", str(tmp_path / "a.npz")]
    done = subprocess.run([*command, str(tmp_path / "out"), "--val", "0.2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["val"] == [3, 3, 3, 3]
    again = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.startswith("error: OUT") and "exists" in again.stderr and "Traceback" not in again.stderr


def test_raw_samples_have_one_pitch(digits):
    manifest, _ = read_manifest(digits)
    with tarfile.open(digits / "shard-000000.tar") as tar:
        starts = [member.offset for member in tar if member.name.endswith(".u8")]
    assert set(np.diff(starts)) == {manifest.shards[0]["pitch"]}


@pytest.mark.parametrize(
    "case, message",
    [
        ("digit", "Did you mean digits"),
        ("torchvision:CIFAR11", "Did you mean CIFAR1"),
        ("torchvision:CIFAR10", "download it there"),
        ("lengths", "60 images and 59 labels"),
        ("floats", "not .* uint8"),
        ("negative", "label -1 is negative"),
        ("pickled", "without pickles"),
        ("parts", "lacks train_labels"),
        ("empty folder", "no class folders"),
        ("cut idx", "header promises"),
    ],
)
def test_bad_sources(tmp_path, case, message):
    source = tmp_path / "a.npz"
    if case == "lengths":
        small_npz(source, train_labels=np.zeros(59, int))
    elif case == "floats":
        small_npz(source, train_images=np.zeros((60, 6, 6)))
    elif case == "negative":
        small_npz(source, train_labels=np.full(60, -1))
    elif case == "pickled":
        small_npz(source, train_labels=np.array([{}] * 60))
    elif case == "parts":
        np.savez(source, train_images=np.zeros((2, 3, 3), np.uint8))
    elif case == "empty folder":
        source = tmp_path / "empty"
        source.mkdir()
    elif case == "cut idx":
        source = tmp_path / "idx"
        source.mkdir()
        write_idx(source / "train-images-idx3-ubyte", np.zeros((4, 3, 3)))
        with open(source / "train-images-idx3-ubyte", "ab") as file:
            file.truncate(30)
    else:
        source = case
    with pytest.raises(RectifyError, match=message):
        build_shards(str(source), tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RectifyError, match="cannot be written"):
        build_shards("digits", tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"val": 1.5}, r"^val is 1\.5; give a share in \[0, 1\)"),
        ({"val": -0.1}, r"^val is -0\.1"),
        ({"test": 1.0}, r"^test is 1\.0"),
        ({"test": float("nan")}, r"^test is nan"),
        ({"val": 0.6, "test": 0.5}, r"val is 0\.6 and test 0\.5; their sum must be below 1"),
        ({"val": 0.9}, r"val is 0\.9 and test 0\.15"),
        ({"size": 0}, r"^size is 0"),
        ({"max_bad": 1.5}, r"^max_bad is 1\.5"),
    ],
)
def test_options_outside_their_range_are_named_as_given(tmp_path, options, message):
    with pytest.raises(RectifyError, match=message):
        build_shards("digits", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_split_that_leaves_nothing_to_train_on(tmp_path):
    small_npz(tmp_path / "a.npz", train=4)  # one sample a class
    with pytest.raises(RectifyError, match=r"No sample is left to train on: val is 0\.9"):
        build_shards(str(tmp_path / "a.npz"), tmp_path / "out", val=0.9)


@pytest.mark.parametrize(
    "name, message",
    [
        ("SVHN", "SVHN cannot be opened under .*not found"),
        ("CelebA", "CelebA cannot be opened under"),
        ("VOCDetection", "VOCDetection cannot be opened under"),
        ("FakeData", "FakeData has no integer label for each image"),
        ("OxfordIIITPet", "OxfordIIITPet cannot be opened under"),
        ("Flickr8k", "Flickr8k cannot be opened under .*ann_file"),
    ],
)
def test_torchvision_sets_that_cannot_be_used(tmp_path, name, message):
    with pytest.raises(RectifyError, match=message) as caught:
        build_shards(f"torchvision:{name}", tmp_path / "out", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_torchvision_sets_by_split_and_without_one(tmp_path, monkeypatch):
    from scipy.io import savemat

    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
    for split, part in (("train", slice(0, 20)), ("test", slice(20, 30))):
        labels = np.arange(part.start, part.stop)[:, None] % 10 + 1
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images[..., part], "y": labels})
    from torchvision import datasets

    class Unhashed(datasets.SVHN):
        """SVHN without the check of the MD5, which only the real files pass."""

        def _check_integrity(self):
            return True

    monkeypatch.setattr(datasets, "SVHN", Unhashed)
    manifest, index = read_manifest(build_shards("torchvision:SVHN", tmp_path / "svhn", root=tmp_path))
    assert index.test.tolist() == list(range(20, 30))
    assert index.label.tolist() == [(number % 10 + 1) % 10 for number in range(30)]  # its 10 stands for the digit 0
    found = ShardReader(manifest, index).images(np.arange(30))[0].numpy()
    assert np.array_equal(found, images.transpose(3, 2, 0, 1))

    for number in range(12):
        folder = tmp_path / "eurosat" / "2750" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (number, 0, 0)).save(folder / f"{number}.png")
    manifest, index = read_manifest(build_shards("torchvision:EuroSAT", tmp_path / "out", root=tmp_path, test=0.25))
    assert manifest.samples == 12
    assert len(index.test) == 3
