"""Retrieval metrics against a loop over queries and against pytorch-metric-learning 2.9."""

import pytest
import torch
import torch.nn.functional as F

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import RetrievalScores, neighbours, query_scores, retrieval, retrieval_scores

GENERATOR = torch.Generator().manual_seed(4)
LABELS = torch.randint(20, (210,), generator=GENERATOR)
LABELS[:3] = torch.tensor([50, 51, 52])  # alone
CENTRES = torch.randn(60, 6, generator=GENERATOR)
ROWS = F.normalize(CENTRES[LABELS] + torch.randn(210, 6, generator=GENERATOR), dim=1)


def loop(query, query_labels, gallery, gallery_labels, own, ks=(1, 2, 4, 8)):
    """One query after the other."""
    answers = {f"recall_at_{k}": [] for k in ks} | {"map_at_r": [], "r_precision": []}
    classes, dropped = [], 0
    for q in range(len(query)):
        order = (gallery.double() @ query[q].double()).argsort(descending=True)
        hits = [bool(gallery_labels[j] == query_labels[q]) for j in order.tolist() if not (own and j == q)]
        relevant = sum(hits)
        if not relevant:
            dropped += 1
            continue
        classes.append(int(query_labels[q]))
        for k in ks:
            answers[f"recall_at_{k}"].append(float(any(hits[:k])))
        answers["r_precision"].append(sum(hits[:relevant]) / relevant)
        precision = [sum(hits[: i + 1]) / (i + 1) for i in range(relevant) if hits[i]]
        answers["map_at_r"].append(sum(precision) / relevant)
    values = {name: torch.tensor(each, dtype=torch.float64) for name, each in answers.items()}
    result = {name: float(each.mean()) for name, each in values.items()}
    owner = torch.tensor(classes)
    for name, each in values.items():
        result[f"{name}_macro"] = float(torch.stack([each[owner == k].mean() for k in owner.unique()]).mean())
    return result | {"queries": len(classes), "queries_dropped": dropped}


@pytest.mark.parametrize("cosines", [1 << 25, 700])
def test_every_sample_against_the_others(monkeypatch, cosines):
    monkeypatch.setattr(retrieval, "COSINES", cosines)
    metric = RetrievalScores()
    metric.update(ROWS[:77], LABELS[:77])
    metric.update(ROWS[77:], LABELS[77:])
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values == pytest.approx(loop(ROWS, LABELS, ROWS, LABELS, own=True), rel=1e-6)
    assert values["queries_dropped"] == 3


def test_queries_against_a_gallery():
    asks = torch.arange(210) % 3 == 0
    asks &= torch.isin(LABELS, LABELS[~asks])
    metric = RetrievalScores(ks=(1, 10))
    metric.update(ROWS[asks], LABELS[asks], role="query")
    metric.update(ROWS[~asks], LABELS[~asks], role="gallery")
    values = {name: float(value) for name, value in metric.compute().items()}
    wanted = loop(ROWS[asks], LABELS[asks], ROWS[~asks], LABELS[~asks], own=False, ks=(1, 10))
    assert values == pytest.approx(wanted, rel=1e-6)


def test_equals_pytorch_metric_learning():
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    theirs = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    ).get_accuracy(ROWS, LABELS)
    ours = retrieval_scores(ROWS, LABELS)
    assert float(ours["recall_at_1"]) == pytest.approx(theirs["precision_at_1"], rel=1e-6)
    assert float(ours["r_precision"]) == pytest.approx(theirs["r_precision"], rel=1e-6)
    assert float(ours["map_at_r"]) == pytest.approx(theirs["mean_average_precision_at_r"], rel=1e-6)


def test_neighbours_name_the_rows():
    found = neighbours(ROWS, LABELS, k=5, rows=torch.tensor([9, 4]))
    cosine = (ROWS @ ROWS.T).fill_diagonal_(-2)
    assert torch.equal(found.index, cosine[[9, 4]].topk(5).indices)
    assert found.query.tolist() == [9, 4]
    assert torch.equal(found.relevant, LABELS[found.index] == LABELS[[9, 4]][:, None])
    assert found.count.tolist() == [int((LABELS[q] == LABELS).sum()) - 1 for q in (9, 4)]


def test_a_gallery_smaller_than_k_is_no_fault():
    labels = torch.tensor([0, 0, 1, 1])
    assert float(retrieval_scores(F.normalize(torch.randn(4, 3), dim=1), labels, ks=(1, 8))["recall_at_8"]) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RetrievalScores(ks=()), "ks is"),
        (lambda: RetrievalScores().update(ROWS, LABELS, role="probe"), "role is 'probe'"),
        (lambda: RetrievalScores().update(ROWS, LABELS.float()), "labels are torch.float32"),
        (lambda: RetrievalScores().update(2 * ROWS, LABELS), "length 2"),
        (lambda: RetrievalScores().compute(), "before any update"),
        (lambda: retrieval_scores(ROWS, torch.arange(210)), "none of 210 queries"),
        (
            lambda: retrieval_scores(ROWS, LABELS, ROWS[3:], LABELS[3:]),
            "3 query classes are missing in the gallery, 50",
        ),
        (lambda: query_scores(neighbours(ROWS, LABELS, k=3), (1,)), "found holds 3"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_input(make, said):
    with pytest.raises(RectifyError, match=said):
        make()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_roles_do_not_mix():
    metric = RetrievalScores()
    metric.update(ROWS, LABELS)
    metric.update(ROWS, LABELS, role="query")
    with pytest.raises(RectifyError, match="role both"):
        metric.compute()
