"""Membership attacks against brute force, hand values and scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import (
    AttackCurve,
    best_threshold,
    logit_margin,
    membership_attacks,
    membership_decisions,
    membership_scores,
    modified_entropy,
)


def split(n, strength, seed, classes=5):
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (n,), generator=draw)
    logits = torch.randn(n, classes, generator=draw)
    logits[torch.arange(n), label] += strength
    return {"logits": logits, "label": label, "index": torch.arange(n)}


def test_modified_entropy_of_song_and_mittal_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]], dtype=torch.float64)
    found = modified_entropy(p.log(), torch.tensor([1, 0]))
    first = -(0.8 * math.log(0.2) + 0.7 * math.log(0.3) + 0.1 * math.log(0.9))
    second = -(0.5 * math.log(0.5) + 0.5 * math.log(0.5))
    assert found.tolist() == pytest.approx([first, second], rel=1e-12)


def test_modified_entropy_where_soft_max_saturates():
    """At a margin of 800 nats float64 knows only p = 1; the entropy of a wrong answer is still (1 - p_y)·800 + …"""
    logits = torch.tensor([[800.0, 0.0], [800.0, 0.0]])
    found = modified_entropy(logits, torch.tensor([0, 1]))
    assert found[0] == 0
    assert float(found[1]) == pytest.approx(1600)


def test_scores_against_their_definitions():
    data = split(200, 1.0, 0)
    scores = membership_scores(data["logits"], data["label"])
    p = data["logits"].double().softmax(1)
    own = p[torch.arange(200), data["label"]]
    torch.testing.assert_close(scores["confidence"], own)
    torch.testing.assert_close(scores["loss"], own.log())
    torch.testing.assert_close(scores["entropy"], (p * p.log()).sum(1))
    torch.testing.assert_close(logit_margin(data["logits"], data["label"]), (own / (1 - own)).log())
    assert scores["correctness"].tolist() == (p.argmax(1) == data["label"]).double().tolist()


@pytest.mark.parametrize("levels", [3, 1000])
def test_threshold_is_the_brute_force_one(levels):
    """Few levels give many ties, many levels none."""
    draw = torch.Generator().manual_seed(levels)
    for _ in range(20):
        member = torch.randint(levels, (37,), generator=draw) / levels
        other = torch.randint(levels, (23,), generator=draw) / levels - 0.1
        candidates = sorted({*member.double().tolist(), *other.double().tolist()})
        rates = [
            sum(m >= t for m in member.double().tolist()) * 23 - sum(o >= t for o in other.double().tolist()) * 37
            for t in candidates
        ]
        assert best_threshold(member, other) == candidates[rates.index(max(rates))]


def test_each_attack_is_the_share_called_never_seen():
    forget, retain, test = split(120, 1.5, 1), split(300, 2.0, 2), split(90, 0.5, 3)
    found = membership_attacks(forget, retain, test)
    assert set(found) == {
        f"MIA_{name}" for name in ("confidence", "correctness", "entropy", "modified_entropy", "loss")
    }
    confidence = [membership_scores(s["logits"], s["label"])["loss"] for s in (forget, retain, test)]
    cut = best_threshold(confidence[1], confidence[2])
    assert found["MIA_loss"] == pytest.approx(100 * sum(v < cut for v in confidence[0].tolist()) / 120)
    wrong = 100 * float((forget["logits"].argmax(1) != forget["label"]).double().mean())
    assert found["MIA_correctness"] == pytest.approx(wrong)


def test_confidence_attack_is_the_published_support_vector_machine():
    """With as many retain as test samples the draw takes all, and only the order of fitting differs."""
    forget, retain, test = split(150, 1.5, 1), split(80, 2.0, 2), split(80, 0.5, 3)
    x, y, z = (s["logits"].double().softmax(1).gather(1, s["label"][:, None]).numpy() for s in (retain, test, forget))
    import numpy as np

    machine = SVC(C=3, kernel="rbf", gamma="auto").fit(np.concatenate((x, y)), [1] * 80 + [0] * 80)
    # the solver stops within a tolerance that the order moves: samples at the border may differ
    clear = np.abs(machine.decision_function(z)) > 0.02
    ours = membership_decisions(forget, retain, test)["confidence"].numpy()
    assert clear.sum() > 100
    assert (ours[clear] == (machine.predict(z) == 0)[clear]).all()


def test_more_test_than_retain_samples_and_the_limit_are_no_error():
    forget, retain, test = split(30, 1.5, 1), split(40, 2.0, 2), split(400, 0.5, 3)
    few = membership_attacks(forget, retain, test, limit=20)["MIA_confidence"]
    assert few == membership_attacks(forget, retain, test, limit=20)["MIA_confidence"]
    assert 0 <= few <= 100


def test_scores_that_tell_nothing_call_all_members():
    same = {"logits": torch.zeros(10, 3), "label": torch.zeros(10, dtype=torch.int64)}
    assert membership_attacks(same, same, same)["MIA_loss"] == 0


def test_empty_and_diverged_outputs_are_refused():
    good = split(10, 1.0, 0)
    empty = {name: value[:0] for name, value in good.items()}
    with pytest.raises(RectifyError, match="empty"):
        membership_attacks(good, good, empty)
    broken = {**good, "logits": good["logits"] * torch.nan}
    with pytest.raises(RectifyError, match="diverged"):
        membership_attacks(broken, good, good)


@pytest.mark.parametrize("levels", [4, 10_000])
def test_attack_curve_against_scikit_learn(levels):
    draw = torch.Generator().manual_seed(levels)
    member = torch.randint(levels, (60,), generator=draw).double() + levels / 5
    other = torch.randint(levels, (80,), generator=draw).double()
    curve = AttackCurve.of(member, other)
    truth, scores = [1] * 60 + [0] * 80, torch.cat((member, other)).tolist()
    assert curve.auc == pytest.approx(roc_auc_score(truth, scores))
    for limit in (0.0, 0.05, 0.3):
        rates = [
            (sum(o >= t for o in other.tolist()) / 80, sum(m >= t for m in member.tolist()) / 60)
            for t in [*scores, math.inf]
        ]
        assert curve.tpr_at(limit) == pytest.approx(max(tpr for fpr, tpr in rates if fpr <= limit))
    assert curve.accuracy == pytest.approx(max((1 + tpr - fpr) / 2 for fpr, tpr in rates))
