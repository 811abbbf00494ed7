"""Shards read from front to back by a brace pattern."""

import http.server
import io
import pickle
import tarfile
import threading
import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lightning_rectify import collectives
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.errors import RectifyError


def png(value, size=6):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, value // 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, samples):
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def sample(number):
    return f"n{number:03d}", {"png": png(number), "cls": str(number % 4).encode()}


@pytest.fixture
def folder(tmp_path):
    for shard in range(5):  # 10, 10, 10, 10, 7 samples
        numbers = range(10 * shard, min(10 * shard + 10, 47))
        write_tar(tmp_path / f"train-{shard:06d}.tar", [sample(n) for n in numbers])
    write_tar(tmp_path / "val.tar", [sample(n) for n in range(100, 113)])
    return tmp_path


def module(folder, **options):
    given = {"batch_size": 4, "classes": 4, "channels": 3, "size": 6, "shuffle_buffer": 7}
    pattern = str(folder / "train-{000000..000004}.tar")
    data = ShardDataModule(**{"source": pattern, "val_source": str(folder / "val.tar"), **given, **options})
    data.prepare_data()
    data.setup()
    return data


def numbers(batches):
    """The red channel of every image is its number."""
    return [batch["image"][:, 0, 0, 0].tolist() for batch in batches]


def as_rank(monkeypatch, rank, world):
    monkeypatch.setattr(collectives, "rank", lambda: rank)
    monkeypatch.setattr(collectives, "world_size", lambda: world)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_have_a_length_an_order_and_a_resume(folder, workers):
    def loader():
        return module(folder, workers=workers).train_dataloader()

    whole = loader()
    assert len(whole) == 47 // 4
    first = numbers(whole)
    whole.set_epoch(1)
    second = numbers(whole)
    assert len(first) == len(second) == 11 and first != second
    assert all(
        n % 4 == label
        for batch in loader()
        for n, label in zip(batch["image"][:, 0, 0, 0], batch["label"], strict=True)
    )
    if not workers:
        assert len({n for batch in first for n in batch}) == 44  # one reader repeats nothing
    interrupted = loader()
    batches = iter(interrupted)
    before = numbers([next(batches) for _ in range(4)])
    resumed = loader()
    resumed.load_state_dict(interrupted.state_dict())
    after = numbers(resumed)
    resumed.set_epoch(1)
    assert (before + after, numbers(resumed)) == (first, second)


def test_ranks_share_the_shards_and_are_even(folder, monkeypatch):
    seen = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        loader = module(folder).train_dataloader()
        seen.append(numbers(loader))
        assert numbers(module(folder).train_dataloader()) == seen[-1]
    assert [len(rank) for rank in seen] == [5, 5]
    shards = [{n // 10 for batch in rank for n in batch} for rank in seen]
    assert not shards[0] & shards[1]
    as_rank(monkeypatch, 0, 8)
    with pytest.warns(UserWarning, match="5 shards for 8 processes"):
        loader = module(folder).train_dataloader()
    assert [len(batch) for batch in numbers(loader)] == [4]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_visits_every_sample(folder, monkeypatch, world):
    samples = [sample(n) for n in range(100, 113)]
    samples[4] = ("n104", {"png": b"broken", "cls": b"0"})
    write_tar(folder / "val.tar", samples)
    seen, shapes = [], []
    for rank in range(world):
        as_rank(monkeypatch, rank, world)
        loader = module(folder, max_bad_samples=0.1).val_dataloader()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches = numbers(loader)
        assert len(batches) == len(loader)
        seen += [n for batch in batches for n in batch]
        shapes.append([len(batch) for batch in batches])
    assert set(seen) == set(range(100, 113)) - {104}
    assert all(shape == shapes[0] for shape in shapes)
    assert module(folder).test_dataloader() == []


@pytest.mark.parametrize(
    "members, reason",
    [
        ({"png": png(3)}, "it has no label"),
        ({"png": png(3), "cls": b"4"}, "its label 4 is not one of the 4 classes"),
        ({"png": png(3), "cls": b"cat"}, "its label is b'cat', not a number"),
        ({"cls": b"1"}, "it has no image"),
        ({"png": png(3, size=5), "cls": b"1"}, "its size is 5x5, not 6x6"),
        ({"png": png(3)[:40], "cls": b"1"}, "its image is corrupt"),
        ({"u8": b"123", "cls": b"1"}, "it holds 3 bytes, not 3x6x6"),
    ],
)
def test_bad_samples(folder, members, reason):
    write_tar(folder / "train-000001.tar", [sample(n) for n in range(10, 19)] + [("bad", members)])
    with pytest.warns(UserWarning, match=f"Bad sample bad skipped: {reason}"):
        data = module(folder, max_bad_samples=0.03)
        list(data.train_dataloader())
    with pytest.raises(RectifyError, match=f"1 of 47 samples are bad.*bad: {reason}"):
        list(module(folder, max_bad_samples=0.0).train_dataloader())


def test_bad_shards(folder):
    path = folder / "train-000003.tar"
    whole = path.read_bytes()
    for length in (
        512 * 9,
        512 * 8 + 100,
        512 * 8,
        700,
        len(whole) // 3,
    ):  # at the end of a member, in one, in a header
        path.write_bytes(whole[:length])
        with pytest.raises(RectifyError, match=r"train-000003\.tar is cut short"):
            module(folder)
    # not counted beforehand: found while reading, and used up to the fault
    with pytest.raises(RectifyError, match=r"1 of 5 shards are bad.*train-000003\.tar"):
        list(module(folder, epoch_samples=47).train_dataloader())
    with pytest.warns(UserWarning, match=r"Bad shard .*train-000003"):
        loader = module(folder, epoch_samples=47, max_bad_samples=0.3, workers=1).train_dataloader()
        assert len(numbers(loader)) == 11
    path.write_bytes(b"")
    with pytest.raises(RectifyError, match=r"train-000003\.tar .* is empty"):
        module(folder)
    path.unlink()
    with pytest.raises(RectifyError, match=r"train-000003\.tar .* is missing"):
        module(folder)


def test_settings_a_stream_needs(folder):
    with pytest.raises(RectifyError, match=r"set data\.classes, data\.size"):
        module(folder, classes=None, size=None)
    with pytest.raises(RectifyError, match=r"data\.epoch_samples is not set"):
        module(folder, source="http://127.0.0.1:9/{0..1}.tar")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_pickle_is_decoded(folder):
    trap = folder / "executed"
    for suffix in ("pyd", "pkl", "pickle"):
        extra = {**sample(0)[1], suffix: pickle.dumps(Evil(trap))}  # beside what is needed: never looked at
        write_tar(folder / "train-000000.tar", [("n000", extra)])
        list(module(folder).train_dataloader())
        only = {"cls": b"1", suffix: pickle.dumps(Evil(trap))}
        write_tar(folder / "train-000000.tar", [("n000", only)])
        for workers in (0, 1):
            with pytest.raises(
                RectifyError, match=rf"Sample n000 keeps its image in a pickle \(\.{suffix}\).*allow_pickle"
            ):
                list(module(folder, source=str(folder / "train-000000.tar"), workers=workers).train_dataloader())
    assert not trap.exists()
    image = np.full((3, 6, 6), 9, np.uint8)
    write_tar(folder / "train-000000.tar", [("n000", {"pyd": pickle.dumps({"image": image, "label": 1})})])
    data = module(folder, source=str(folder / "train-000000.tar"), batch_size=1, allow_pickle=True)
    assert numbers(data.train_dataloader()) == [[9]]


@pytest.mark.parametrize("scheme", ["pipe:", "gs://x/", "ssh://"])
def test_no_command_is_run(folder, scheme):
    trap = folder / "executed"
    with pytest.raises(RectifyError, match=r"would run a shell command.*data\.allow_pipe"):
        module(folder, source=f"{scheme}touch {trap}", epoch_samples=8)
    assert not trap.exists()


def test_a_pipe_that_is_allowed(folder):
    data = module(folder, source=f"pipe:cat {folder}/train-000000.tar", epoch_samples=10, allow_pipe=True)
    assert {n for batch in numbers(data.train_dataloader()) for n in batch} <= set(range(10))


def test_over_http(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        data = module(
            folder, source=base + "/train-{000000..000004}.tar", epoch_samples=47, val_source=f"{base}/val.tar"
        )
        assert numbers(data.train_dataloader()) == numbers(module(folder).train_dataloader())
        assert {n for batch in numbers(data.val_dataloader()) for n in batch} == set(range(100, 113))
    finally:
        server.shutdown()


def test_a_split_that_is_not_there_is_named_at_the_start(folder):
    import pytorch_lightning as pl
    from foreign import Foreign
    from pytorch_lightning.callbacks import EarlyStopping

    given = {"batch_size": 4, "classes": 4, "channels": 3, "size": 6}
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "default_root_dir": folder}

    def data(**more):
        return ShardDataModule(str(folder / "train-{000000..000004}.tar"), **given, **more)

    stop = EarlyStopping("val/accuracy")
    with pytest.raises(RectifyError, match=r"^data\.val_source is not set, but val/accuracy is monitored"):
        pl.Trainer(callbacks=[stop], **quiet).fit(Foreign(), data())
    with pytest.raises(RectifyError, match=r"^data\.val_source is not set, but validate needs"):
        pl.Trainer(**quiet).validate(Foreign(), data())
    with pytest.warns(UserWarning, match=r"data\.val_source is not set: .*nothing is validated"):
        data().setup("fit")
    with pytest.warns(UserWarning, match=r"data\.test_source is not set: .*nothing is tested"):
        data().setup("test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data(val_source=str(folder / "val.tar")).setup("fit")
