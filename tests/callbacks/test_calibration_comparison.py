"""Runs leave a record of their calibration; later ones read it, refuse what does not fit, and draw all side by side."""

import json

import numpy as np
import pytest
import torch
from foreign import IMAGES, LABELS, Data, Foreign, trainer
from matplotlib.collections import PathCollection
from PIL import Image
from pytorch_lightning.callbacks import EarlyStopping
from scipy.stats import binom, binomtest, norm

from lightning_rectify.callbacks import (
    CalibrationRecord,
    CalibrationReport,
    compare_calibration,
    draw_calibration_comparison,
    read_record,
)
from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import CalibrationSums

KEY = "figures/{}_reliability_compared"


def record(seed=0, samples=400, bins=15, classes=10, stage="test", scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    sums = CalibrationSums(classes, bins)
    logits = scale * torch.randn(samples, classes, generator=generator)
    sums.update(logits, torch.randint(classes, (samples,), generator=generator))
    return CalibrationRecord.of(sums.compute(), classes, stage, 3, 40)


@pytest.fixture
def earlier(tmp_path):
    """A run folder with both stages."""
    for stage in ("val", "test"):
        record(stage=stage).write(tmp_path / "earlier" / f"calibration_{stage}.json")
    return tmp_path / "earlier"


def test_a_run_leaves_what_its_logits_say(tmp_path):
    net, run = Foreign(), trainer(tmp_path, CalibrationReport(figure_every_n_epochs=0))
    run.fit(net, Data(train=64))
    run.test(net, Data(), verbose=False)
    with torch.no_grad():
        logits = net.eval()(IMAGES[1000:1301]).double()
    label, n = LABELS[1000:1301], 301
    p = logits.softmax(1)
    residual = (p - torch.nn.functional.one_hot(label, 10)).square().sum(1).numpy()
    nll = -p[torch.arange(n), label].log().numpy()
    wrong = int((p.argmax(1) != label).sum())
    for stage in ("val", "test"):
        found = read_record(tmp_path / f"calibration_{stage}.json", "")
        assert (found.stage, found.samples, found.classes, found.bins) == (stage, n, 10, 15)
        assert found.epoch in (1, 2)
        assert found.step == 4
        logged = {name: float(run.callback_metrics[f"test/{name}"]) for name in set(found.scores) - {"error"}}
        assert {name: found.scores[name] for name in logged} == pytest.approx(logged, rel=1e-6)
        assert found.scores["error"] == pytest.approx(wrong / n)
        where = np.minimum((p.max(1).values.numpy() * 15).astype(int), 14)
        assert found.count == np.bincount(where, minlength=15).tolist()
        np.testing.assert_allclose(
            found.confidence, np.bincount(where, p.max(1).values.numpy(), minlength=15), rtol=1e-5
        )
        for name, values in (("nll", nll), ("brier", residual)):
            expected = norm.interval(0.95, values.mean(), values.std(ddof=1) / np.sqrt(n))
            assert found.intervals[name] == pytest.approx(expected, rel=1e-4)
        wilson = binomtest(wrong, n).proportion_ci(method="wilson")
        assert found.intervals["error"] == pytest.approx([wilson.low, wilson.high])


def test_a_record_is_read_as_it_was_written(tmp_path):
    own = record(samples=1)  # one sample has no spread, so intervals are NaN, which JSON does not know
    own.write(tmp_path / "one.json")
    json.loads((tmp_path / "one.json").read_text(), parse_constant=pytest.fail)
    found = read_record(tmp_path / "one.json", "")
    assert (found.count, found.hits, found.confidence) == (own.count, own.hits, own.confidence)
    assert found.scores == pytest.approx(own.scores, nan_ok=True)
    assert np.isnan(found.intervals["nll"]).all()


@pytest.mark.parametrize("stop", [False, True])
def test_the_figure_comes_when_training_and_test_end(tmp_path, earlier, stop):
    report = CalibrationReport(figure_every_n_epochs=0, compare_with={"before": earlier})
    # a floor that is reached at once ends the training at a validation that did not look like the last one
    early = [EarlyStopping("val/nll", divergence_threshold=0.0)] if stop else []
    net, run = Foreign(), trainer(tmp_path / "now", report, *early, max_epochs=2)
    run.fit(net, Data(train=32))
    assert run.global_step == (1 if stop else 2)
    run.test(net, Data(), verbose=False)
    for stage in ("val", "test"):
        (path,) = (tmp_path / "now" / KEY.format(stage)).iterdir()
        assert path.name == f"step_{run.global_step:08d}.png"
        assert Image.open(path).size[0] > 800


def test_points_and_boxes_are_those_of_the_records():
    runs = {"one": record(1, scale=3.0), "another": record(2, samples=700, scale=0.5)}
    figure = draw_calibration_comparison(runs)
    axes = figure.axes[0]
    points = [each for each in axes.collections if isinstance(each, PathCollection)]
    for each, drawn, bars in zip(runs.values(), points, axes.containers, strict=True):
        filled = np.array(each.count) > 0
        n = np.array(each.count)[filled]
        mean = np.array(each.confidence)[filled] / n
        gap = mean - np.array(each.hits)[filled] / n
        places = drawn.get_offsets()
        np.testing.assert_allclose(places[:, 1], gap)
        assert (places[:, 0] * 15).astype(int).tolist() == np.flatnonzero(filled).tolist()  # each inside its bin
        low, high = mean - binom.ppf(0.975, n, mean) / n, mean - binom.ppf(0.025, n, mean) / n
        for bar, bottom, top in zip(bars, low, high, strict=True):
            assert (bar.get_y(), bar.get_y() + bar.get_height()) == pytest.approx((bottom, top))
    written = [text.get_text() for text in figure.texts]
    for name, each in runs.items():
        assert f"{name}  (N = {each.samples:,})" in written
        assert f"{each.scores['nll']:.3f}" in written
        low, high = each.intervals["ece_top_label_l1"]
        assert f"[{low:.4f}, {high:.4f}]" in written


def test_runs_are_compared_without_a_trainer(tmp_path, earlier):
    record(5, stage="val").write(tmp_path / "file.json")
    figure = compare_calibration({"folder": earlier, "file": tmp_path / "file.json"}, stage="val")
    assert len(figure.axes) == 2
    empty = CalibrationRecord.of(CalibrationSums(10).compute(), 10, "val", 0, 0)
    draw_calibration_comparison({"none": empty})  # nothing counted, nothing raised
    with pytest.raises(RectifyError, match="no run is given"):
        compare_calibration({})


def write_other(folder, name, **options):
    path = folder / name
    record(**options).write(path)
    return path


BAD = {
    "missing": (lambda at, old: {"x": at / "nowhere"}, "compare_with.x: .*nowhere does not exist"),
    "folder": (lambda at, old: {"x": at}, "has no calibration_val.json; give a"),
    "half": (lambda at, old: {"x": write_other(at, "half/calibration_val.json", stage="val").parent}, "give its calib"),
    "text": (lambda at, old: {"x": __file__}, "is no calibration record"),
    "moved": (lambda at, old: {"x": write_other(at, "m/calibration_val.json").parent}, "is of stage test; run that"),
    "bins": (
        lambda at, old: {"old": old, "x": write_other(at, "b.json", bins=10)},
        "compare_with.x has 10 bins, not 15",
    ),
    "classes": (lambda at, old: {"x": write_other(at, "c.json", classes=7)}, "x has 7 classes and this network 10"),
    "among": (
        lambda at, old: {"old": old, "x": write_other(at, "c.json", classes=7)},
        "7 classes and the first run 10",
    ),
    "stages": (
        lambda at, old: {"x": write_other(at, "v.json", stage="val"), "y": write_other(at, "t.json")},
        "compare_with.y is of stage test and x of val",
    ),
    "own": (lambda at, old: {"now": old}, "compare_with.now has the name of this run"),
    "alike": (lambda at, old: {"a" * 40: old, "a" * 41: old}, "look alike"),
    "many": (lambda at, old: {str(place): old for place in range(8)}, "names 8 runs; one figure takes at most 7"),
    "blank": (lambda at, old: {" ": old}, "without a name"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compared_is_refused_before_training(tmp_path, earlier, case):
    make, words = BAD[case]
    run = trainer(tmp_path / "now", CalibrationReport(compare_with=make(tmp_path, earlier)), num_sanity_val_steps=1)
    net = Foreign()  # of which nothing says how many classes it has
    with pytest.raises(RectifyError, match=words):
        run.fit(net, Data(train=32))
    assert net.losses == []


def test_a_stage_that_is_not_reported_cannot_be_compared(tmp_path):
    path = write_other(tmp_path, "v.json", stage="val")
    with pytest.raises(RectifyError, match="x is of stage val, but compared is test"):
        trainer(tmp_path, CalibrationReport(stages=("test",), compare_with={"x": path})).fit(Foreign(), Data())
