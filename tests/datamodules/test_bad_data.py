"""What is wrong with data is said in one sentence; single bad samples are left out and named."""

import json
import shutil

import numpy as np
import pytest

from lightning_rectify.datamodules import ShardDataModule, build_shards, read_manifest, verify_shards
from lightning_rectify.errors import RectifyError
from lightning_rectify.files import sha256


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    images = np.random.default_rng(0).integers(0, 256, (200, 6, 6, 3), dtype=np.uint8)
    np.savez(folder / "a.npz", images=images, labels=np.arange(200) % 4)
    for encoding in ("raw", "png"):
        build_shards(str(folder / "a.npz"), folder / encoding, format=encoding, shard_size=100)
    return folder


@pytest.fixture
def shards(source, tmp_path, request):
    encoding = getattr(request, "param", "raw")
    return shutil.copytree(source / encoding, tmp_path / encoding)


def edit_manifest(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_index(folder, **rows):
    with np.load(folder / "index.npz") as file:
        arrays = dict(file)
    for name, (at, value) in rows.items():
        arrays[name][at] = value
    np.savez(folder / "index.npz", **arrays)
    edit_manifest(folder, index_sha256=sha256(folder / "index.npz"))


def overwrite(folder, index, data):
    """Put bytes in the place of an image, the way a disk fault does: nothing else changes."""
    manifest, rows = read_manifest(folder)
    with open(folder / manifest.shards[rows.shard[index]]["name"], "r+b") as file:
        file.seek(rows.offset[index])
        file.write(data[: rows.length[index]])


def seen(folder, **options):
    module = ShardDataModule(str(folder), batch_size=16, **options)
    module.setup()
    training = [int(i) for batch in module.train_dataloader() for i in batch["index"]]
    evaluated = [
        int(i) for split in (module.val_dataloader, module.test_dataloader) for b in split() for i in b["index"]
    ]
    return module, training, evaluated


def broken(case, folder):
    second = folder / "shard-000001.tar"
    match case:
        case "missing shard":
            second.unlink()
        case "empty shard":
            second.write_bytes(b"")
        case "truncated shard":
            second.write_bytes(second.read_bytes()[:-5000])
        case "grown shard":
            second.write_bytes(second.read_bytes() + b"\0" * 512)
        case "missing manifest":
            (folder / "manifest.json").unlink()
        case "cut manifest":
            (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:100])
        case "old format":
            edit_manifest(folder, format=0)
        case "unknown field":
            edit_manifest(folder, colour="red")
        case "class count":
            edit_manifest(folder, classes=5)
        case "other index":
            (folder / "index.npz").write_bytes(b"")
        case "labels outside":
            edit_index(folder, label=(np.arange(40), 9))


@pytest.mark.parametrize(
    "case, message",
    [
        ("missing shard", "shard-000001.tar is missing"),
        ("empty shard", "shard-000001.tar is empty"),
        ("truncated shard", "shard-000001.tar is cut short"),
        ("grown shard", "shard-000001.tar is longer"),
        ("missing manifest", "manifest.json does not exist"),
        ("cut manifest", "is no manifest"),
        ("old format", "format 0.*build the shards again"),
        ("unknown field", "is no manifest.*colour"),
        ("class count", "classes is 5 but 4 class_names"),
        ("other index", r"index\.npz is missing or"),
        ("labels outside", "max_bad_samples 0.01 .*label 9 is not below 4"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_folder(shards, case, message):
    broken(case, shards)
    with pytest.raises(RectifyError, match=message) as caught:
        ShardDataModule(str(shards)).setup()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": 5}, r"data\.classes is 5.*have 4.*data\.classes=4"),
        ({"channels": 1}, r"data\.channels is 1.*have 3"),
        ({"size": 32}, r"data\.size is 32.*have 6"),
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"eval_batch_size": -1}, r"data\.eval_batch_size is -1"),
        ({"max_bad_samples": 1.0}, r"data\.max_bad_samples is 1\.0"),
    ],
)
def test_a_config_that_does_not_fit(shards, options, message):
    with pytest.raises(RectifyError, match=message):
        ShardDataModule(str(shards), **options).setup()


def test_an_unknown_source():
    with pytest.raises(RectifyError, match="Did you mean fashion_mnist"):
        ShardDataModule("fashion-mnist").prepare_data()
    with pytest.raises(RectifyError, match="lacks source"):
        ShardDataModule("mine", build={"format": "png"}).prepare_data()


@pytest.mark.parametrize("label, reason", [(-1, "it has no label"), (4, "its label 4 is not below 4")])
def test_a_sample_with_a_bad_label_is_left_out(shards, label, reason):
    _, index = read_manifest(shards)
    bad = [int(index.train[3]), int(index.test[2])]
    edit_index(shards, label=(bad, label))
    with pytest.warns(UserWarning, match=reason):
        module, training, evaluated = seen(shards)
    assert module.bad.reasons == {str(index.key[i]): reason for i in bad}
    assert not set(bad) & set(training + evaluated)
    assert len(module.ids["train"]) == len(index.train) - 1 and len(module.ids["test"]) == len(index.test) - 1


@pytest.mark.parametrize("shards", ["png"], indirect=True)
@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_images_are_left_out(shards, cache, workers):
    _, index = read_manifest(shards)
    bad = [int(index.train[3]), int(index.test[2])]
    for i in bad:
        overwrite(shards, i, b"\0" * 40)
    with pytest.warns(UserWarning, match="its image is corrupt"):
        module, training, evaluated = seen(shards, cache=cache, workers=workers, drop_last=False)
    assert set(module.bad.reasons) == {str(index.key[i]) for i in bad}
    everything = set(np.concatenate([index.train, index.val, index.test]).tolist())
    assert set(training + evaluated) == everything - set(bad)


@pytest.mark.parametrize("shards", ["png"], indirect=True)
def test_an_image_of_another_size_is_left_out(shards):
    import io

    from PIL import Image

    _, index = read_manifest(shards)
    buffer = io.BytesIO()
    Image.new("RGB", (5, 6)).save(buffer, "PNG")
    overwrite(shards, int(index.train[0]), buffer.getvalue())
    with pytest.warns(UserWarning, match="its size is 6x5, not 6x6"):
        _, training, _ = seen(shards)
    assert int(index.train[0]) not in training


@pytest.mark.parametrize("shards", ["png"], indirect=True)
@pytest.mark.parametrize("cache, workers", [("memory", 0), ("none", 0), ("none", 1)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_too_many_bad_samples_stop_the_run(shards, cache, workers):
    _, index = read_manifest(shards)
    for i in index.train[:20]:
        overwrite(shards, int(i), b"\0" * 40)
    with pytest.raises(RectifyError, match=r"of 200 samples are bad, more than data\.max_bad_samples 0\.01") as caught:
        seen(shards, cache=cache, workers=workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shards", ["png"], indirect=True)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_last_batch_of_one_bad_sample(shards):
    _, index = read_manifest(shards)
    overwrite(shards, int(index.test[-1]), b"\0" * 40)
    module = ShardDataModule(str(shards), eval_batch_size=len(index.test) - 1, cache="none")
    module.setup()
    batches = [batch["index"].tolist() for batch in module.test_dataloader()]
    assert [len(batch) for batch in batches] == [len(index.test) - 1, 1]
    assert set(batches[0] + batches[1]) == set(index.test[:-1].tolist())


def test_verify_finds_a_changed_byte(shards):
    verify_shards(read_manifest(shards)[0])
    overwrite(shards, 0, b"\1\2\3")
    with pytest.raises(RectifyError, match=r"shard-000000\.tar has changed"):
        verify_shards(read_manifest(shards)[0])


def test_using_data_before_setup():
    with pytest.raises(RectifyError, match="not set up yet"):
        _ = ShardDataModule("digits").classes
