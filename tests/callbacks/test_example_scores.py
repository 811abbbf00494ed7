"""Scores of training samples against definitions, a replay of training, and gradients."""

import csv
import sys

import pyarrow.parquet as parquet
import pytest
import torch
from foreign import IMAGES, LABELS, Data, trainer
from small_backbone import Small
from torch.nn import functional as F

from lightning_rectify.callbacks import ExampleScores
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.errors import RectifyError


def fitted(folder, epochs=3, lr=1.0, train=64, **options):
    torch.manual_seed(2)
    net, scores = Small(lr), ExampleScores(samples=1797, **options)
    run = trainer(folder, scores, max_epochs=epochs, limit_val_batches=0)
    run.fit(net, Data(train=train))
    return net, scores.scores()[:train], run


def replay(epochs=3, lr=1.0, train=64, batch=32):
    """The same training by a plain loop; rows (el2n, grand, times, forgotten, last right, learnt)."""
    torch.manual_seed(2)
    net, rows = Small(lr), torch.zeros(train, 6)
    optimizer = net.configure_optimizers()
    for _ in range(epochs):
        for start in range(0, train, batch):
            for i in range(start, min(start + batch, train)):
                logits = net(IMAGES[i : i + 1])
                loss = F.cross_entropy(logits, LABELS[i : i + 1])
                layer = net.backbone.classifier
                grads = torch.autograd.grad(loss, [layer.weight, layer.bias])
                p = logits.detach().softmax(1)[0] - F.one_hot(LABELS[i], 10)
                right = float(logits.argmax() == LABELS[i])
                rows[i, 0] += p.norm()
                rows[i, 1] += torch.cat([g.flatten() for g in grads]).norm()
                rows[i, 2] += 1
                rows[i, 3] += rows[i, 4] * (1 - right)
                rows[i, 4] = right
                rows[i, 5] = max(rows[i, 5], right)
            part = slice(start, start + batch)
            optimizer.zero_grad()
            F.cross_entropy(net(IMAGES[part]), LABELS[part]).backward()
            optimizer.step()
    return rows


def test_scores_equal_a_replay_with_real_gradients(tmp_path):
    _, scores, _ = fitted(tmp_path)
    expected = replay()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert expected[:, 3].sum() > 0  # something was forgotten
    with open(tmp_path / "example_scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    for row, own in zip(rows, expected, strict=True):
        assert float(row["el2n"]) == pytest.approx((own[0] / own[2]).item(), rel=1e-3)
        assert row["forgotten"] == (str(int(own[3])) if own[5] else "inf")


def test_a_sample_repeated_in_a_batch_is_forgotten_once(tmp_path):
    scores = ExampleScores(samples=4)
    run = trainer(tmp_path, scores, limit_train_batches=0, limit_val_batches=0)
    net = Small()
    scores.on_fit_start(run, net)
    image, label = IMAGES[:1].repeat(3, 1, 1, 1), net(IMAGES[:1]).argmax(1).repeat(3)
    for right in (True, False, True, False, False):
        own = label if right else (label + 1) % 10
        batch = {"image": image, "label": own, "index": torch.full((3,), 2)}
        scores.on_train_batch_start(run, net, batch, 0)
    assert scores.scores()[2, 2:].tolist() == [15, 2, 0, 1]


def test_the_gradient_of_a_layer_without_bias_has_none(tmp_path):
    scores, net = ExampleScores(samples=4), Small()
    layer = net.backbone.classifier = torch.nn.Linear(12, 10, bias=False)
    run = trainer(tmp_path, scores)
    scores.on_fit_start(run, net)
    scores.on_train_batch_start(run, net, {"image": IMAGES[:1], "label": LABELS[:1], "index": torch.zeros(1).long()}, 0)
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(IMAGES[:1]), LABELS[:1]), layer.weight)
    assert scores.scores()[0, 1] == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_only_the_asked_epochs_are_scored(tmp_path):
    torch.manual_seed(2)
    scores = ExampleScores(epochs=1, samples=1797)
    trainer(tmp_path, scores, max_epochs=3, limit_val_batches=0).fit(Small(), Data(train=64))
    assert scores.scores()[:64, 2].eq(1).all()
    assert not scores.scores()[64:].any()


def test_training_is_bit_identical_with_and_without_it(tmp_path):
    losses = []
    for callbacks in ([], [ExampleScores(samples=1797)]):
        torch.manual_seed(1)
        net = Small()
        trainer(tmp_path, *callbacks, limit_val_batches=0).fit(net, Data(train=96))
        losses.append(net.losses)
    assert losses[0] == losses[1]
    assert losses[0]


def test_a_resume_goes_on(tmp_path):
    run = fitted(tmp_path, epochs=1)[2]
    run.save_checkpoint(tmp_path / "one.ckpt")
    scores = ExampleScores(samples=1797)
    again = trainer(tmp_path, scores, max_epochs=3, limit_val_batches=0)
    torch.manual_seed(2)
    again.fit(Small(1.0), Data(train=64), ckpt_path=tmp_path / "one.ckpt")
    torch.testing.assert_close(scores.scores()[:64], replay(), rtol=1e-4, atol=1e-4)
    wrong = trainer(tmp_path, ExampleScores(samples=99), max_epochs=3, limit_val_batches=0)
    with pytest.raises(RectifyError, match="scores 1797 samples and the data have 99"):
        wrong.fit(Small(1.0), Data(train=64), ckpt_path=tmp_path / "one.ckpt")


@pytest.mark.parametrize(
    ("options", "data", "words"),
    [
        ({}, {}, "has no index; give samples"),
        ({"samples": 1797}, {"dicts": False}, "batches have no index"),
    ],
)
def test_what_it_cannot_score_is_one_sentence(tmp_path, options, data, words):
    with pytest.raises(RectifyError, match=words):
        trainer(tmp_path, ExampleScores(**options), limit_val_batches=0).fit(Small(), Data(train=32, **data))


def chosen(path, most):
    """Write the hardest samples of a table, as docs/example_scores.md does, beside it; return the file and indices."""
    hard = path.with_name(f"hard{path.suffix}")
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: -float(row["el2n"]))[:most]
        with hard.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return hard, [int(row["index"]) for row in rows]
    table = parquet.read_table(path).sort_by([("el2n", "descending")])[:most]
    parquet.write_table(table, hard)
    return hard, table.column("index").to_pylist()


def test_hard_samples_of_either_table_are_a_request_to_forget(tmp_path):
    from lightning_rectify.backbones import ResNet
    from lightning_rectify.lightning_modules import Classifier

    rows = {}
    for ending in ("csv", "parquet"):
        torch.manual_seed(2)
        data, scores = ShardDataModule("digits"), ExampleScores(file=f"scores.{ending}")
        run = trainer(tmp_path, scores, max_epochs=2, limit_train_batches=3, limit_val_batches=0)
        run.fit(Classifier(ResNet(10, channels=1, depth=8)), data)
        path, hard = chosen(tmp_path / f"scores.{ending}", 7)
        asked = ShardDataModule("digits", forget=str(path))
        asked.setup()
        assert asked.forget_index.tolist() == sorted(hard)
        expected = scores.scores()[:, 0] / scores.scores()[:, 2]
        assert set(hard) == set(expected.nan_to_num(-1).topk(7).indices.tolist())
        rows[ending] = path
    table = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    with open(tmp_path / "scores.csv") as file:
        lines = list(csv.DictReader(file))
    assert list(table[0]) == list(lines[0])
    assert len(table) == len(lines) > 100
    for own, line in zip(table, lines, strict=True):
        assert (str(own["index"]), own["key"], str(own["label"])) == (line["index"], line["key"], line["label"])
        for name in ("el2n", "grand", "forgotten", "times"):
            assert float(line[name]) == pytest.approx(own[name], rel=1e-5)
    assert any(own["forgotten"] == float("inf") for own in table)


def test_parquet_without_an_index_has_no_keys(tmp_path):
    fitted(tmp_path, epochs=1, file="scores.parquet")
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert table.num_rows == 64
    assert table.column("key").null_count == table.column("label").null_count == 64


def test_parquet_without_its_writer_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    ExampleScores(file="scores.csv")
    with pytest.raises(RectifyError, match=r"needs pyarrow; install lightning-rectify\[parquet\], or give a name"):
        ExampleScores(file="scores.parquet")


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"samples": 0}, {"file": "scores.txt"}, {"file": "../scores.csv"}, {"file": ".csv"}]
)
def test_bad_options_are_one_sentence(options):
    with pytest.raises(RectifyError, match=next(iter(options))):
        ExampleScores(**options)
