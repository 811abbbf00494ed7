"""Which samples a request stands for, counted by hand on the index of the digits; and every wrong request."""

import hashlib
import json

import numpy as np
import pytest

from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.errors import RectifyError


@pytest.fixture(scope="module")
def digits():
    module = ShardDataModule("digits")
    module.prepare_data()
    module.setup()
    return module


def asked(forget, **options):
    module = ShardDataModule("digits", forget=forget, **options)
    module.setup()
    return module


def test_classes_by_number_and_name(digits):
    labels, train = digits.index.label, digits.index.train
    module = asked("class:3, 5")
    assert module.forget_index.tolist() == [i for i in train.tolist() if labels[i] in (3, 5)]
    assert module.request.classes == (3, 5)
    both = np.concatenate([module.forget_index, module.retain_index])
    assert sorted(both.tolist()) == train.tolist()


def test_shares_are_seeded_nested_and_stratified(digits):
    count = len(digits.index.train)
    tenth, half = asked("fraction:0.1"), asked("fraction:0.5")
    assert len(tenth.forget_index) == int(0.1 * count) and set(tenth.forget_index) < set(half.forget_index)
    assert set(tenth.forget_index) != set(asked("fraction:0.1", forget_seed=1).forget_index)
    assert tenth.request.classes == ()
    labels = digits.index.label
    per_class = np.bincount(labels[asked("stratified:0.2").forget_index])
    assert per_class.tolist() == [int(0.2 * n + 1e-9) for n in np.bincount(labels[digits.index.train])]


def written(folder, keys, indices):
    (folder / "header.csv").write_text("label,key\n" + "".join(f"7,{key}\n" for key in keys))
    (folder / "plain.csv").write_text("\n".join(keys))
    (folder / "marked.csv").write_bytes(b"\xef\xbb\xbfkey\r\n" + "\r\n".join(keys).encode())
    (folder / "list.json").write_text(json.dumps(keys))
    (folder / "rows.json").write_text(json.dumps([{"key": key} for key in keys]))
    (folder / "object.json").write_text(json.dumps({"keys": keys}))
    (folder / "index.txt").write_text(", ".join(map(str, indices)))
    (folder / "index.json").write_text(json.dumps(indices))
    np.save(folder / "index.npy", np.array(indices))


def test_files_of_keys_and_indices(digits, tmp_path):
    wanted = digits.index.train[[5, 17, 400]]
    written(tmp_path, digits.index.key[wanted].tolist(), wanted.tolist())
    for name in ("header.csv", "plain.csv", "marked.csv", "list.json", "rows.json", "object.json"):
        assert asked(str(tmp_path / name)).forget_index.tolist() == sorted(wanted.tolist()), name
    for name in ("index.txt", "index.json", "index.npy"):
        module = asked(f"index:{tmp_path / name}")
        assert module.forget_index.tolist() == sorted(wanted.tolist()), name
    lines = "\n".join(sorted(digits.index.key[wanted].tolist()))
    assert module.request.keys_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_parquet(digits, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    wanted = digits.index.train[[5, 17]]
    parquet.write_table(pyarrow.table({"key": digits.index.key[wanted].tolist()}), tmp_path / "a.parquet")
    assert asked(str(tmp_path / "a.parquet")).forget_index.tolist() == wanted.tolist()


def test_parquet_without_its_reader(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(RectifyError, match="needs pyarrow"):
        asked(str(tmp_path / "a.parquet"))


def test_a_list_is_a_union(digits):
    both = asked(["class:1", "fraction:0.1"])
    alone = [asked(text).forget_index for text in ("class:1", "fraction:0.1")]
    assert both.forget_index.tolist() == np.union1d(*alone).tolist()


WRONG = {
    "class:12": "class:12 is unknown",
    "class:": "names no class",
    "fraction:0": "fraction:0 is no share",
    "stratified:1.5": "between 0 and 1",
    "fraction:tenth": "is no share",
    "clas:3": "Did you mean class?",
    "everything": "is no request",
    "index:none.txt": "none.txt does not exist",
    "none.csv": "none.csv does not exist",
    "class:0,1,2,3,4,5,6,7,8,9": "leave some to retain",
    "fraction:0.0001": "asks for no training sample",
}


@pytest.mark.parametrize("request_text, said", WRONG.items())
def test_wrong_requests(request_text, said):
    with pytest.raises(RectifyError, match=said.replace("?", "\\?")):
        asked(request_text)


FILES = {
    "empty.csv": ("", "holds no key"),
    "header.csv": ("key\n", "holds no key"),
    "columns.csv": ("a,b\n1,2\n", "none is named key"),
    "bad.json": ("{", "cannot be read"),
    "numbers.json": ("[1, 2]", "index:FILE for numbers"),
    "unknown.csv": ("key\nno/1\nno/2\nno/3\nno/4\n", r"4 of 4 keys are in no split \(no/1, no/2, no/3, …\)"),
    "a.parquet": ("words", "Parquet"),
    "index:words.txt": ("one two", "no list of numbers"),
    "index:empty.txt": (" ", "holds no index"),
    "index:floats.json": ("[0.5]", "no list of integers"),
    "index:far.txt": ("3 99999", "1 indices are unknown"),
}


@pytest.mark.parametrize("name, content", FILES.items())
def test_wrong_files(name, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name.removeprefix("index:")).write_text(content[0])
    with pytest.raises(RectifyError, match=content[1]):
        asked(name)


def test_samples_of_other_splits_are_refused(digits, tmp_path):
    for split in ("val", "test"):
        (tmp_path / "keys.csv").write_text(str(digits.index.key[getattr(digits.index, split)[0]]))
        with pytest.raises(RectifyError, match=f"in the {split} split"):
            asked(str(tmp_path / "keys.csv"))


def test_what_cannot_be_combined():
    from lightning_rectify.datamodules import BalancedClasses

    with pytest.raises(RectifyError, match=r"data\.forget needs the labels"):
        ShardDataModule("a-{0..1}.tar", forget="class:1")
    with pytest.raises(RectifyError, match=r"data\.sampler draws no forget"):
        ShardDataModule("digits", batch_size=32, forget="class:1", sampler=BalancedClasses(samples_per_class=4))
    module = ShardDataModule("digits")
    module.setup()
    with pytest.raises(RectifyError, match=r"data\.forget is not set"):
        module.forget_dataloader()
