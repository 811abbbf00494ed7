"""TCM against a double loop in float64 and against pytorch-metric-learning 2.9."""

import pytest
import torch
import torch.nn.functional as F

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import EmbeddingMemory, SmoothAP, ThresholdConsistentMargin


def rows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    return raw, torch.randint(4, (count,), generator=generator)


def double_loop(a, labels, b, other, margins=(0.9, 0.5), weights=(1.0, 1.0), power=1, same_set=True, counts=None):
    """The definition, pair by pair."""
    sums, active = [0.0, 0.0], [0, 0]
    for i in range(len(a)):
        for j in range(len(b)):
            if (same_set and i == j) or (counts is not None and not counts(i, j)):
                continue
            cosine = (a[i] * b[j]).sum()
            positive = labels[i] == other[j]
            over = margins[0] - cosine if positive else cosine - margins[1]
            if over >= 0:
                sums[int(not positive)] += over**power
                active[int(not positive)] += 1
    return sum(w * s / n for w, s, n in zip(weights, sums, active, strict=True) if n), active


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("margins", [(0.9, 0.5), (0.2, -0.3), (0.0, 0.0)])
def test_equals_a_double_loop(power, margins):
    raw, labels = rows(17)
    loss = ThresholdConsistentMargin(*margins, positive_weight=2.0, negative_weight=0.3, power=power)
    value = loss(F.normalize(raw, dim=1), labels)
    (gradient,) = torch.autograd.grad(value, raw)
    unit = F.normalize(raw, dim=1)
    wanted, active = double_loop(unit, labels, unit, labels, margins, (2.0, 0.3), power)
    (expected,) = torch.autograd.grad(wanted, raw)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)
    assert [int(loss.terms["positive_active"]), int(loss.terms["negative_active"])] == active
    positive_pairs = sum(int(n) * (int(n) - 1) for n in labels.bincount())
    assert float(loss.terms["positive_rate"]) == pytest.approx(active[0] / positive_pairs)
    assert float(loss.terms["negative_rate"]) == pytest.approx(active[1] / (17 * 16 - positive_pairs))


def test_references_equal_a_double_loop():
    raw, labels = rows(6)
    other, other_labels = rows(11, seed=1)
    loss = ThresholdConsistentMargin()
    value = loss(F.normalize(raw, dim=1), labels, F.normalize(other, dim=1), other_labels)
    got = torch.autograd.grad(value, (raw, other))
    a, b = F.normalize(raw, dim=1), F.normalize(other, dim=1)
    wanted, _ = double_loop(a, labels, b, other_labels, same_set=False)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    for one, two in zip(got, torch.autograd.grad(wanted, (raw, other)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-14)


def test_a_mask_of_tags_leaves_out_pairs():
    raw, labels = rows(13)
    camera = torch.arange(13) % 3
    unit = F.normalize(raw, dim=1)
    loss = ThresholdConsistentMargin(pair_mask=lambda a, b: a[:, None] != b)
    wanted, _ = double_loop(unit, labels, unit, labels, counts=lambda i, j: camera[i] != camera[j])
    torch.testing.assert_close(loss(unit, labels, tags=camera), wanted, rtol=1e-12, atol=0)


def test_equals_pytorch_metric_learning():
    from pytorch_metric_learning.losses import ThresholdConsistentMarginLoss

    raw, labels = rows(40)
    settings = {"lambda_plus": 0.7, "lambda_minus": 1.3, "margin_plus": 0.6, "margin_minus": 0.1}
    theirs = ThresholdConsistentMarginLoss(**settings)(F.normalize(raw, dim=1), labels)
    ours = ThresholdConsistentMargin(0.6, 0.1, 0.7, 1.3)(F.normalize(raw, dim=1), labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, raw)[0] for value in (ours, theirs)), rtol=1e-10, atol=1e-14
    )


def test_a_pair_on_the_margin_is_active_and_lowers_the_mean():
    unit = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    loss = ThresholdConsistentMargin(positive_margin=0.0, negative_weight=0)
    # cosines 0, 0 and -1: the mean is over all three
    assert float(loss(unit, torch.zeros(3, dtype=torch.int64))) == pytest.approx(1 / 3)


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5]])
def test_an_empty_set_adds_nothing(labels):
    unit = F.normalize(torch.randn(3, 4, requires_grad=True), dim=1)
    value = ThresholdConsistentMargin(positive_margin=-1.0, negative_margin=1.0)(unit, torch.tensor(labels))
    assert float(value.detach()) == 0
    value.backward()  # the graph is there: on several ranks its collectives must run


def test_stays_in_float32_under_autocast():
    raw, labels = rows(20)
    unit = F.normalize(raw, dim=1).detach()
    loss = ThresholdConsistentMargin()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(unit.float(), labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), loss(unit, labels), rtol=1e-6, atol=0)


def test_memory_holds_the_last_embeddings_and_survives_a_restart():
    def batch(seed):
        raw, labels = rows(6, seed)
        return F.normalize(raw, dim=1).float().detach().requires_grad_(), labels

    memory = EmbeddingMemory(ThresholdConsistentMargin(), size=15, dimension=5)
    batches = [batch(seed) for seed in range(5)]
    assert float(memory(*batches[0]).detach()) == 0  # nothing remembered yet
    for one in batches[1:4]:
        value = memory(*one)
    past, past_labels = (torch.cat([one[part] for one in batches[:3]])[-15:] for part in (0, 1))
    wanted = ThresholdConsistentMargin()(*batches[3], past, past_labels)
    torch.testing.assert_close(value, wanted)
    again = EmbeddingMemory(ThresholdConsistentMargin(), size=15, dimension=5)
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again(*batches[4]), memory(*batches[4]))
    assert torch.equal(again.embeddings, memory.embeddings)
    memory.eval()(*batches[0])
    assert torch.equal(again.embeddings, memory.embeddings), "evaluation must not be remembered"


UNIT = F.normalize(torch.ones(4, 3), dim=1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ThresholdConsistentMargin(positive_margin=1.5), "positive_margin is 1.5"),
        (lambda: ThresholdConsistentMargin(negative_weight=-1), "negative_weight is -1"),
        (lambda: ThresholdConsistentMargin(power=3), "power is 3"),
        (lambda: ThresholdConsistentMargin()(UNIT, torch.ones(4)), "labels are torch.float32"),
        (lambda: ThresholdConsistentMargin()(2 * UNIT, torch.ones(4).long()), "length 2"),
        (lambda: ThresholdConsistentMargin()(UNIT * torch.nan, torch.ones(4).long()), "length nan"),
        (lambda: ThresholdConsistentMargin()(UNIT, torch.ones(3).long()), "must be"),
        (lambda: ThresholdConsistentMargin()(UNIT, torch.ones(4).long(), UNIT), "together"),
        (lambda: ThresholdConsistentMargin(pair_mask=lambda a, b: a == b)(UNIT, torch.ones(4).long()), "pair_mask"),
        (lambda: EmbeddingMemory(SmoothAP()), "takes no references"),
        (lambda: EmbeddingMemory(ThresholdConsistentMargin(), size=0), "size is 0"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(RectifyError, match=said):
        make()
