"""Collapse and mixed geometry: constructed cases, NumPy, two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import IMAGES, LABELS, Data, Foreign, trainer
from PIL import Image
from processes import run_ranks
from small_backbone import Small

from lightning_rectify.callbacks import NeuralCollapse, draw_collapse
from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import ClassMoments, MixGeometry, collapse_scores, nearest_mean_disagreement, off_span

K, D = 4, 6


def simplex(scale=3.0):
    """A simplex equiangular tight frame of K points in D dimensions, away from the origin."""
    frame = torch.eye(K, dtype=torch.float64) - 1 / K
    rotation = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))[0]
    return scale * frame @ rotation[:K]


def moments_of(features, label, classes=K):
    moments = ClassMoments(classes, features.shape[1])
    for piece, own in zip(features.split(7), label.split(7), strict=True):
        moments.update(piece, own)
    return moments


def test_a_collapsed_network_scores_zero():
    means, label = simplex(), torch.arange(K).repeat(10)
    features = means[label] + 5
    scores = collapse_scores(moments_of(features, label), 0.7 * means)
    for name, value in scores.items():
        assert value == pytest.approx(0, abs=1e-6), name
    wrong = nearest_mean_disagreement(features, means[label] @ means.T, means + 5, torch.ones(K, dtype=torch.bool))
    assert not wrong.any()


def test_each_score_sees_its_own_fault():
    means, label = simplex(), torch.arange(K).repeat(50)
    noisy = means[label] + 0.3 * torch.randn(len(label), D, dtype=torch.float64)
    assert collapse_scores(moments_of(noisy, label), means)["nc1"] > 0.01
    longer = means.clone()
    longer[0] *= 2
    scores = collapse_scores(moments_of(longer[label], label), means)
    assert scores["nc2_norm"] > 0.1
    assert scores["nc1"] == pytest.approx(0, abs=1e-6)
    turned = collapse_scores(moments_of(means[label], label), means.roll(1, 0))
    assert turned["nc3"] > 1
    assert turned["nc2_angle"] == pytest.approx(0, abs=1e-6)


def test_scores_equal_numpy():
    features, label = torch.randn(90, D).double() + torch.randn(K, D).double()[(torch.arange(90) * 7) % K], None
    label = (torch.arange(90) * 7) % K
    weight = torch.randn(K, D).double()
    f, y, w = features.numpy(), label.numpy(), weight.numpy()
    means = np.stack([f[y == k].mean(0) for k in range(K)])
    centred = means - means.mean(0)
    within = sum((f[y == k] - means[k]).T @ (f[y == k] - means[k]) for k in range(K)) / len(y)
    between = centred.T @ centred / K
    norms = np.linalg.norm(centred, axis=1)
    cosine = centred @ centred.T / np.outer(norms, norms)
    pairs = [cosine[i, j] for i in range(K) for j in range(K) if i != j]
    expected = {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / K,
        "nc2_norm": norms.std() / norms.mean(),
        "nc2_angle": np.sqrt(np.mean((np.array(pairs) + 1 / (K - 1)) ** 2)),
        "nc3": np.linalg.norm(w / np.linalg.norm(w) - centred / np.linalg.norm(centred)),
    }
    found = {name: float(value) for name, value in collapse_scores(moments_of(features, label), weight).items()}
    assert found == pytest.approx(expected, rel=1e-9)


def test_geometry_of_constructed_mixes():
    weight = simplex()
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 3, 2])
    geometry = MixGeometry()
    normal = torch.linalg.svd(weight)[2][-1]  # a direction off every row
    for place in range(11):
        lam = place / 10
        features = lam * weight[first] + (1 - lam) * weight[second]
        features[2:] += 4 * lam * (1 - lam) * 3 * normal  # a bulge at the middle, outside the plane
        geometry.update(features, first, second, place, weight)
    scores = geometry.scores()
    assert scores["mix_same_spread"] == pytest.approx(0, abs=1e-9)
    middle = torch.stack((weight[2], weight[3])).mean(0)
    long = (middle.square().sum() + 9).sqrt()
    assert scores["mix_amplification"] == pytest.approx((long / weight[2].norm()).item())
    assert 0.3 < scores["mix_off_plane"] < 1
    mean, spread = geometry.norm_profile()
    assert mean[0, 3] == pytest.approx(weight[0].norm().item())
    assert spread[0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(off_span(weight[:1] + normal, weight[None, [0, 1, 1]].mT), [1], atol=1e-9)


def test_it_logs_what_the_functions_say_of_the_split(tmp_path):
    torch.manual_seed(5)
    net, run = Small(), trainer(tmp_path, NeuralCollapse())
    run.validate(net, Data(), verbose=False)
    with torch.no_grad():
        features = net.backbone.features(IMAGES[1000:1301])
        logits = net.backbone.head(features)
    moments = moments_of(features.double(), LABELS[1000:1301], 10)
    expected = collapse_scores(moments, net.backbone.classifier.weight.detach())
    for name, value in expected.items():
        assert run.callback_metrics[f"val/{name}"] == pytest.approx(value.item(), rel=1e-4)
    nearest = np.linalg.norm(features.numpy()[:, None] - moments.means.numpy(), axis=2).argmin(1)
    assert run.callback_metrics["val/nc4"] == pytest.approx((nearest != logits.argmax(1).numpy()).mean(), abs=1e-6)
    (figure,) = tmp_path.rglob("*.png")
    named = [f"kind {name}" for name in range(10)]
    rows = torch.cat((LABELS[:90, None].repeat(1, 2), torch.rand(90, 1 + 12)), 1)
    scores = {key.removeprefix("val/"): torch.zeros(()) for key in NeuralCollapse().later_keys()}
    drawn = draw_collapse(rows, torch.randn(10, 12), MixGeometry(), scores, "", named)
    words = [text.get_text() for text in drawn.axes[0].texts]
    assert len(set(words) & set(named)) == 3
    assert Image.open(figure).size[0] > 800


def test_no_sample_is_mixed_with_itself(tmp_path, monkeypatch):
    seen = []
    update = MixGeometry.update
    monkeypatch.setattr(MixGeometry, "update", lambda own, *args: (seen.append(args), update(own, *args))[1])
    for panel in (2, 3, 13):
        run = trainer(tmp_path, NeuralCollapse(panel=panel, figure_every_n_epochs=0))
        run.validate(Small(), Data(), verbose=False)
        first, last = seen[0][0], seen[10][0]  # features at λ 0, the partner's, and at λ 1, the sample's own
        assert len(first) == panel
        assert (first - last).norm(dim=1).gt(1e-3).all()
        seen.clear()


@pytest.mark.parametrize("panel", [12, 40])
def test_the_panel_has_every_class_alike_and_pairs_within_and_between(tmp_path, monkeypatch, panel):
    seen = []
    update = MixGeometry.update
    monkeypatch.setattr(MixGeometry, "update", lambda own, *args: (seen.append(args), update(own, *args))[1])
    run = trainer(tmp_path, own := NeuralCollapse(panel=panel, figure_every_n_epochs=0))
    for start in (1000, 1001):  # other batches of nearly the same samples, repeated at the end
        data = Data(val=(start, 1301), batch=33)
        run.validate(Small(), data, verbose=False)
    for _, first, second, *_ in (seen[0], seen[11]):
        counts = first.bincount(minlength=10)
        assert len(first) == panel
        assert counts[counts > 0].min() >= 2  # so that each has a partner
        assert counts[counts > 0].max() - counts[counts > 0].min() <= 1
        assert (counts > 0).sum() == min(10, panel // 2)
        assert 0.3 * panel < first.eq(second).sum() < 0.8 * panel
    assert torch.equal(seen[0][1], seen[11][1])
    assert set(own.later_keys()) == set(run.callback_metrics)


def test_what_is_not_measured_every_epoch_cannot_be_watched(tmp_path):
    from pytorch_lightning.callbacks import ModelCheckpoint

    best = ModelCheckpoint(tmp_path, monitor="val/nc1")
    run = trainer(tmp_path, best, NeuralCollapse(every_n_epochs=2), enable_checkpointing=True)
    with pytest.raises(RectifyError, match="monitor is val/nc1, which NeuralCollapse measures every 2 epochs"):
        run.fit(Small(), Data(train=32))


@pytest.mark.parametrize(
    ("every", "options", "expected"),
    [
        (2, {"max_epochs": 6, "check_val_every_n_epoch": 2}, [1, 3, 5]),  # epochs 1, 3, 5: none is even
        (2, {"max_epochs": 4}, [0, 2, 3]),
        (100, {"max_epochs": 3}, [0, 2]),
    ],
)
def test_which_validations_are_measured(tmp_path, every, options, expected):
    measured = []

    class Watched(NeuralCollapse):
        def _mixed(self, trainer, *args):
            measured.append(trainer.current_epoch)
            return super()._mixed(trainer, *args)

    own = Watched(panel=8, figure_every_n_epochs=0, every_n_epochs=every)
    data = {"limit_train_batches": 1, "limit_val_batches": 1, "num_sanity_val_steps": 1}
    trainer(tmp_path, own, **data, **options).fit(Small(), Data())
    assert measured == expected
    fresh = NeuralCollapse()
    fresh.load_state_dict(own.state_dict())
    assert fresh.state_dict() == own.state_dict()
    assert fresh.state_dict()["last_measured"] == expected[-1]


def test_training_is_bit_identical_with_and_without_it(tmp_path):
    losses = []
    for callbacks in ([], [NeuralCollapse(panel=32)]):
        torch.manual_seed(1)
        net = Small()
        trainer(tmp_path, *callbacks).fit(net, Data(train=96))
        losses.append(net.losses)
    assert losses[0] == losses[1]
    assert losses[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NeuralCollapse(panel=1), "panel is 1"),
        (lambda: NeuralCollapse(every_n_epochs=0), "every_n_epochs 0"),
        (lambda: collapse_scores(moments_of(torch.randn(9, D), torch.zeros(9).long()), torch.randn(K, D)), "2 classes"),
    ],
)
def test_bad_options_are_one_sentence(make, words):
    with pytest.raises(RectifyError, match=words):
        make()


def test_a_network_without_features_is_one_sentence(tmp_path):
    with pytest.raises(RectifyError, match="has no features, head and linear layer"):
        trainer(tmp_path, NeuralCollapse()).validate(Foreign(), Data(), verbose=False)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_ranks(Path(__file__).with_name("ranks_neural_collapse.py"), str(folder))


def test_two_processes_log_what_one_logs(ranks, tmp_path):
    folder, reports = ranks
    torch.manual_seed(5)
    run = trainer(tmp_path, NeuralCollapse(panel=41))
    run.validate(Small(), Data(), verbose=False)
    for name in ("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"):
        for report in reports:
            assert report["metrics"][f"val/{name}"] == pytest.approx(
                float(run.callback_metrics[f"val/{name}"]), rel=1e-5
            )
        for name in ("mix_same_spread", "mix_off_plane", "mix_amplification"):
            for report in reports:
                assert report["metrics"][f"val/{name}"] == pytest.approx(
                    float(run.callback_metrics[f"val/{name}"]), rel=1e-4
                ), name
    assert len(list(folder.rglob("*.png"))) == 1


def test_two_processes_refuse_what_one_of_them_sees(ranks):
    for report in ranks[1]:
        assert report["refused"].startswith("NeuralCollapse: some validation features are NaN")


def test_two_processes_score_what_one_scores(ranks, tmp_path):
    from lightning_rectify.callbacks import ExampleScores

    torch.manual_seed(5)
    scores = ExampleScores(samples=1797)
    trainer(tmp_path, scores, max_epochs=2, limit_val_batches=0).fit(Small(lr=0.0), Data())
    expected = scores.scores()[:256]
    for report in ranks[1]:
        torch.testing.assert_close(torch.tensor(report["scores"]), expected, rtol=1e-4, atol=1e-5)
