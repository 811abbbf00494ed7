"""OPIS and its relatives against brute force over all pairs, with ties and classes of one image."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import run_ranks

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    OperatingPointInconsistency,
    PairHistogram,
    class_utility,
    epsilon_opis,
    opis,
    opis_noise_floor,
    positives_weighted_opis,
)


def data(count=300, classes=24, seed=0):
    """Unit rows with exact copies (ties at cosine 1 and elsewhere) and four classes of one image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centre = torch.randn(classes, 6, generator=generator)
    rows = centre[labels] + 1.2 * torch.rand(classes, 1, generator=generator)[labels] * torch.randn(
        count, 6, generator=generator
    )
    rows[10:20] = rows[30:40]  # copies, of other classes too
    rows[20:26] = rows[20]
    labels[:4] = torch.arange(100, 104)
    return F.normalize(rows, dim=1), labels


class Brute:
    """All ordered pairs of different rows as (N, N) float64 distances."""

    def __init__(self, rows, labels):
        rows = rows.double().numpy()
        cosine = np.clip(rows @ rows.T, -1, 1)
        self.distance = np.sqrt(2 - 2 * cosine)
        self.labels = labels.numpy()
        self.same = self.labels[:, None] == self.labels
        self.other = ~np.eye(len(rows), dtype=bool)
        self.classes = [k for k in np.unique(self.labels) if (self.labels == k).sum() > 1]

    def at_far(self, far):
        return np.quantile(self.distance[~self.same], far)

    def utility(self, d, c):
        values = []
        for k in self.classes:
            mine = self.labels == k
            inside = self.distance[(self.same & self.other) & mine[:, None]]
            across = self.distance[mine][:, ~mine]
            sensitivity, specificity = (inside <= d).mean(), (across > d).mean()
            total = c**2 * specificity + sensitivity
            values.append((1 + c**2) * specificity * sensitivity / total if total else 0.0)
        return np.array(values)

    def curves(self, far=(0.01, 0.1), c=1.0, points=2001):
        grid = np.linspace(self.at_far(far[0]), self.at_far(far[1]), points)
        return np.stack([self.utility(d, c) for d in grid], 1), grid


def mean_over(values, grid):
    return np.trapezoid(values, grid) / (grid[-1] - grid[0])


@pytest.fixture(scope="module")
def brute():
    rows, labels = data()
    brute = Brute(rows, labels)
    return rows, labels, brute, *brute.curves()


def test_equals_brute_force(brute):
    rows, labels, reference, utility, grid = brute
    metric = OperatingPointInconsistency(min_edges=1000)  # counts again inside the range
    metric.update(rows[:100], labels[:100])
    metric.update(rows[100:], labels[100:])
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values["opis"] == pytest.approx(mean_over(utility.var(0), grid), rel=2e-3)
    order = mean_over(utility, grid).argsort()
    share = round(0.1 * len(utility))
    gap = utility[order[-share:]].mean(0) - utility[order[:share]].mean(0)
    assert values["epsilon_opis"] == pytest.approx(mean_over(gap**2, grid), rel=2e-3)
    pairs = np.array([(labels == k).sum() * ((labels == k).sum() - 1) / 2 for k in reference.classes])
    share = (pairs / pairs.sum())[:, None]
    weighted = (share * (utility - (share * utility).sum(0)) ** 2).sum(0)
    assert values["positives_weighted_opis"] == pytest.approx(mean_over(weighted, grid), rel=2e-3)
    assert (values["distance_min"], values["distance_max"]) == pytest.approx((grid[0], grid[-1]), rel=1e-3)
    assert (values["classes"], values["classes_dropped"]) == (len(reference.classes), 4)


def test_without_counting_again_the_bins_cost_little(brute):
    rows, labels, _, utility, grid = brute
    assert opis(PairHistogram.of(rows, labels)) == pytest.approx(mean_over(utility.var(0), grid), rel=1e-2)


def test_utilities_at_inner_edges_are_exact(brute):
    """At the edge of a bin nothing is interpolated: the same counts as brute force."""
    rows, labels, reference, *_ = brute
    histogram = PairHistogram.of(rows, labels, bins=512)
    utility = class_utility(histogram)
    assert utility.classes.tolist() == reference.classes
    for place in (1, len(utility.distance) // 2, len(utility.distance) - 2):
        wanted = reference.utility(float(utility.distance[place]), 1.0)
        np.testing.assert_allclose(utility.utility[:, place], wanted, rtol=1e-12)


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_other_ranges_and_weights_of_sensitivity(brute, c):
    rows, labels, reference, *_ = brute
    utility, grid = reference.curves((0.05, 0.3), c, points=401)
    got = opis(PairHistogram.of(rows, labels, bins=16384), (0.05, 0.3), c)
    assert got == pytest.approx(mean_over(utility.var(0), grid), rel=1e-2)


def test_is_zero_for_classes_of_the_same_geometry():
    """The same cluster at orthogonal places; one of another shape makes it positive."""
    cluster = torch.randn(7, 5)
    rows = torch.zeros(6, 7, 6 * 5)
    for k in range(6):
        rows[k, :, 5 * k : 5 * k + 5] = cluster
    rows[..., :] += 0.3 * torch.ones(30)
    labels = torch.arange(6).repeat_interleave(7)
    same = opis(PairHistogram.of(F.normalize(rows.flatten(0, 1), dim=1), labels))
    rows[0] = rows[0].mean(0) + 0.1 * (rows[0] - rows[0].mean(0))
    other = opis(PairHistogram.of(F.normalize(rows.flatten(0, 1), dim=1), labels))
    assert same < 1e-8 < 1e-3 < other


def test_names_of_classes_and_order_of_rows_do_not_matter():
    rows, labels = data()
    value = opis(PairHistogram.of(rows, labels))
    renamed = torch.randperm(104, generator=torch.Generator().manual_seed(1))[labels] * 1000 - 7
    assert opis(PairHistogram.of(rows, renamed)) == pytest.approx(value, rel=1e-12)
    order = torch.randperm(300)
    assert opis(PairHistogram.of(rows[order], labels[order])) == pytest.approx(value, rel=1e-6)


def test_ranking_at_each_threshold_is_never_smaller():
    histogram = PairHistogram.of(*data())
    assert epsilon_opis(histogram, ranking="each") >= epsilon_opis(histogram)
    assert epsilon_opis(histogram, epsilon=0.5) < epsilon_opis(histogram, epsilon=0.05)


def test_classes_of_few_pairs_can_be_left_out():
    rows, labels = data()
    histogram = PairHistogram.of(rows, labels)
    few = class_utility(histogram, min_positives=60)
    assert 0 < len(few.classes) < len(class_utility(histogram).classes)
    assert all((labels == k).sum() * ((labels == k).sum() - 1) // 2 >= 60 for k in few.classes)


def test_the_noise_floor_is_opis_of_classes_that_differ_by_chance_only():
    """Classes of five images from one distribution: OPIS is all noise, so it lies between the two floors."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(1000) // 5
    rows = torch.randn(200, 64, generator=generator)[labels] + 1.5 * torch.randn(1000, 64, generator=generator)
    histogram = PairHistogram.of(F.normalize(rows, dim=1), labels)
    value = opis(histogram)
    low, high = (float(opis_noise_floor(histogram, independent=kind).mean()) for kind in ("pairs", "images"))
    assert low < value < high
    assert high < 10 * low
    spread = opis_noise_floor(histogram, draws=5)
    assert spread.std() > 0 and torch.equal(spread, opis_noise_floor(histogram, draws=5))
    real = PairHistogram.of(*data())
    assert opis(real) > float(opis_noise_floor(real, independent="pairs").max())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    script = Path(__file__).with_name("ranks_pairs.py")
    alone = tmp_path_factory.mktemp("alone") / "0.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK_REPORT", str(alone))
        patch.setenv("WORLD_SIZE", "1")
        runpy.run_path(str(script))
    return json.loads(alone.read_text()), run_ranks(script)


@pytest.mark.parametrize("part", ["opis", "retrieval", "sides"])
def test_two_processes_give_what_one_gives(ranks, part):
    alone, both = ranks
    for report in both:
        assert report["positive"] == alone["positive"]
        assert report[part] == pytest.approx(alone[part], rel=1e-6)


ROWS, LABELS = data()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PairHistogram.of(ROWS, LABELS.float()), "labels are torch.float32"),
        (lambda: PairHistogram.of(3 * ROWS, LABELS), "length 3; cosine is assumed"),
        (lambda: PairHistogram.of(ROWS, torch.ones_like(LABELS)), "one class"),
        (lambda: opis(PairHistogram.of(ROWS, torch.arange(300))), "no positive pair"),
        (lambda: OperatingPointInconsistency(far=(0.0, 0.1)), r"FAR range is \(0.0, 0.1\)"),
        (lambda: OperatingPointInconsistency(far=(0.1, 0.01)), "must rise"),
        (lambda: OperatingPointInconsistency(bins=2), "bins is 2"),
        (lambda: OperatingPointInconsistency().compute(), "before any update"),
        (lambda: OperatingPointInconsistency().update(2 * ROWS, LABELS), "length 2"),
        (lambda: opis(PairHistogram.of(ROWS, LABELS), c=0), "c is 0"),
        (lambda: opis(PairHistogram.of(ROWS, LABELS), min_positives=10**6), "lower min_positives"),
        (lambda: epsilon_opis(PairHistogram.of(ROWS, LABELS), epsilon=0.7), "epsilon is 0.7"),
        (lambda: epsilon_opis(PairHistogram.of(ROWS, LABELS), ranking="all"), "ranking is 'all'"),
        (lambda: opis_noise_floor(PairHistogram.of(ROWS, LABELS), draws=0), "draws is 0"),
        (lambda: positives_weighted_opis(PairHistogram.of(ROWS, LABELS), far=(0.1, 1.0)), "FAR range"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_input(make, said):
    with pytest.raises(RectifyError, match=said):
        make()
