"""What the report logs is what the metrics say of the split: in our modules, in foreign ones, in two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import IMAGES, LABELS, Data, Foreign, WithOutputs, trainer
from PIL import Image
from processes import run_ranks

from lightning_rectify.callbacks import CalibrationRecord, CalibrationReport, read_record
from lightning_rectify.callbacks.reliability_figure import consistency_band
from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import CalibrationSums


def expected(module, stage="val", start=1000, stop=1301):
    metric = CalibrationSums(10)
    with torch.no_grad():
        metric.update(module.eval()(IMAGES[start:stop]), LABELS[start:stop])
    return {f"{stage}/{name}": value.item() for name, value in metric.compute().scores.items()}


def write_earlier(path):
    metric = CalibrationSums(10)
    metric.update(torch.randn(50, 10), LABELS[:50])
    CalibrationRecord.of(metric.compute(), 10, "val", 3, 30).write(path)


def plain(metrics):
    return {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize("module", [Foreign, WithOutputs])
@pytest.mark.parametrize("dicts", [True, False])
def test_logs_the_metrics_of_the_whole_split(tmp_path, module, dicts):
    net, run = module(), trainer(tmp_path, CalibrationReport())
    run.fit(net, Data(dicts=dicts))
    assert plain(run.callback_metrics) == pytest.approx(expected(net), rel=1e-5)
    run.test(net, Data(dicts=dicts), verbose=False)
    assert plain(run.callback_metrics) == pytest.approx(expected(net, "test"), rel=1e-5)
    figures = sorted(str(path.relative_to(tmp_path / "figures")) for path in tmp_path.rglob("*.png"))
    steps = ("val_reliability/step_00000008.png", "val_reliability/step_00000016.png")
    assert figures == ["test_reliability/step_00000016.png", *steps]
    assert Image.open(tmp_path / "figures" / steps[0]).size[0] > 400


def test_training_is_bit_identical_with_and_without_it(tmp_path):
    losses = []
    for callbacks in ([], [CalibrationReport()]):
        torch.manual_seed(1)
        net = Foreign()
        trainer(tmp_path, *callbacks).fit(net, Data())
        losses.append(net.losses)
    assert losses[0] == losses[1]
    assert len(losses[0]) == 16


def test_figures_and_stages_as_asked(tmp_path):
    run = trainer(tmp_path, CalibrationReport(stages=("val",), figure_every_n_epochs=2), max_epochs=3)
    net = Foreign()
    run.fit(net, Data(train=32))
    run.test(net, Data(), verbose=False)
    assert not any(key.startswith("test/") for key in run.callback_metrics)
    names = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert names == ["step_00000001.png", "step_00000003.png"]
    quiet = tmp_path / "quiet"
    trainer(quiet, CalibrationReport(figure_every_n_epochs=0)).validate(net, Data(), verbose=False)
    assert not list(quiet.rglob("*.png"))


def test_sanity_batches_do_not_count(tmp_path):
    class Look(CalibrationReport):
        seen = None

        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                Look.seen = int(self._sums[0].compute().reliability.samples)
            else:
                assert not self._sums
            super().on_validation_epoch_end(trainer, pl_module)

    trainer(tmp_path, Look(), max_epochs=1, num_sanity_val_steps=2).fit(Foreign(), Data(train=32))
    assert Look.seen == 301


def test_several_loaders_have_their_own_keys(tmp_path):
    class Two(Data):
        def val_dataloader(self):
            return [self._loader(1000, 1100), self._loader(1100, 1301)]

    class Module(Foreign):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            pass

    report = CalibrationReport()
    net, run = Module(), trainer(tmp_path, report)
    run.validate(net, Two(), verbose=False)
    assert set(report.later_keys()) == set(run.callback_metrics)
    second = {f"{key}/dataloader_1": value for key, value in expected(net, start=1100).items()}
    assert plain(run.callback_metrics) == pytest.approx({**expected(net, stop=1100), **second}, rel=1e-5)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_a_checkpoint_can_follow_a_calibration_key(tmp_path):
    from pytorch_lightning.callbacks import ModelCheckpoint

    best = ModelCheckpoint(tmp_path, monitor="val/ece_top_label_l1")
    trainer(tmp_path, best, CalibrationReport(), enable_checkpointing=True).fit(Foreign(), Data(train=32))
    assert best.best_model_score == pytest.approx(min(best.best_k_models.values()).item())


class _Tuple(Foreign):
    def forward(self, image):
        return (self.net(image),)


class _Sure(Foreign):
    def forward(self, image):
        return self.net(image).softmax(1)


class _Flat(WithOutputs):
    def validation_step(self, batch, batch_idx):
        found = super().validation_step(batch, batch_idx)
        return found | {"logits": found["logits"][:, 0]}


class _Text(Data):
    def _loader(self, start, stop):
        return torch.utils.data.DataLoader([{"text": 1.0}] * 4)


@pytest.mark.parametrize(
    ("module", "data", "words"),
    [
        (_Tuple, Data, "returned tuple, not logits"),
        (Foreign, _Text, "this one is a dict with text"),
        (_Sure, Data, "CalibrationSums: these are probabilities"),
        (_Flat, Data, "takes float logits"),
    ],
)
def test_what_it_cannot_read_is_one_sentence(tmp_path, module, data, words):
    with pytest.raises(RectifyError, match=words):
        trainer(tmp_path, CalibrationReport()).validate(module(), data(), verbose=False)


def test_probabilities_are_refused_before_training(tmp_path):
    net = _Sure()
    with pytest.raises(RectifyError, match="CalibrationReport: these are probabilities"):
        trainer(tmp_path, CalibrationReport(), num_sanity_val_steps=1).fit(net, Data())
    assert net.losses == []


@pytest.mark.parametrize(
    "options", [{"bins": 1}, {"stages": ("train",)}, {"stages": ()}, {"figure_every_n_epochs": -1}]
)
def test_bad_options_are_one_sentence(options):
    with pytest.raises(RectifyError, match=next(iter(options))):
        CalibrationReport(**options)


def test_what_it_says_it_will_log_is_what_it_logs(tmp_path):
    for options in ({}, {"stages": ("test",)}):
        report = CalibrationReport(figure_every_n_epochs=0, **options)
        run = trainer(tmp_path, report)
        run.validate(Foreign(), Data(), verbose=False)
        assert set(report.later_keys()) == set(run.callback_metrics)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_earlier(folder / "earlier.json")
    return folder, run_ranks(Path(__file__).with_name("ranks_calibration_report.py"), str(folder))


def test_two_processes_with_padding_log_what_one_logs(ranks):
    folder, reports = ranks
    torch.manual_seed(5)
    net = Foreign()
    for report in reports:
        assert report["metrics"] == pytest.approx(expected(net), rel=1e-5)
        assert report["warnings"] == []
    drawn = sorted(str(path.relative_to(folder / "figures")) for path in folder.rglob("*.png"))
    assert drawn == [f"val_{name}/step_00000000.png" for name in ("reliability", "reliability_compared")]


def test_two_processes_leave_the_record_of_one(ranks):
    torch.manual_seed(5)
    metric = CalibrationSums(10)
    with torch.no_grad():
        metric.update(Foreign().eval()(IMAGES[1000:1301]), LABELS[1000:1301])
    one = CalibrationRecord.of(metric.compute(), 10, "val", 0, 0)
    two = read_record(ranks[0] / "calibration_val.json", "")
    assert (two.count, two.hits, two.samples) == (one.count, one.hits, 301)
    assert two.scores == pytest.approx(one.scores, rel=1e-5)
    for name, ends in one.intervals.items():
        assert two.intervals[name] == pytest.approx(ends, rel=1e-5)


def test_the_consistency_band_is_the_binomial_interval():
    from scipy.stats import binom

    confidence, count = np.array([0.1, 0.5, 0.93, 0.999999, 1.0]), np.array([3, 50, 1000, 7, 20])
    low, high = consistency_band(confidence, count)
    inside = np.clip(confidence, 1e-9, 1 - 1e-9)
    np.testing.assert_allclose(low, binom.ppf(0.025, count, inside) / count)
    np.testing.assert_allclose(high, binom.ppf(0.975, count, inside) / count)
