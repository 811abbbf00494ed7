"""The seed's objectives against closed forms, in every form of batch that they take."""

import copy

import numpy as np
import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import (
    Context,
    FineTune,
    GradientAscent,
    L1Sparse,
    NegGradPlus,
    RandomLabel,
    Scrub,
    epoch_labels,
    parts,
)

CONTEXT = Context(3, 0.25, (11, 0, 1, 4))


def forms(forget, retain, mixed):
    """Each form of batch with the parts that are in it."""
    return {
        "forget": ({"forget": forget, "retain": None}, forget, None),
        "retain": ({"forget": None, "retain": retain}, None, retain),
        "paired": ({"forget": forget, "retain": retain}, forget, retain),
        "mixed": (mixed, *parts(mixed)),
    }


def cross_entropy_piece(closed, net, part, label, weight):
    """Weight times the cross-entropy of the part's samples to a label."""
    losses, gradient = closed.cross_entropy(closed.logits(net, part), np.asarray(label))
    return part["image"], weight * losses, weight * gradient


@pytest.fixture(params=["forget", "retain", "paired", "mixed"])
def form(request, forget, retain, mixed):
    return (request.param, *forms(forget, retain, mixed)[request.param])


@pytest.mark.parametrize("exclude", [False, True])
def test_random_label(form, net, closed, exclude):
    name, batch, forget, retain = form
    sizes = {"mixed": (8, 8)}.get(name, (3, 5))  # one mean over a mixed batch
    pieces = []
    if forget is not None:
        label = epoch_labels(forget["label"], forget["index"], 4, exclude, CONTEXT)
        pieces.append(cross_entropy_piece(closed, net, forget, label, 1 / sizes[0]))
    if retain is not None:
        pieces.append(cross_entropy_piece(closed, net, retain, retain["label"], 1 / sizes[1]))
    step = closed.check(RandomLabel(exclude, "epoch"), net, batch, CONTEXT, *pieces)
    assert set(step.terms) == {f"{kind}_loss" for kind, p in (("forget", forget), ("retain", retain)) if p is not None}


def test_random_label_draws_by_the_batch_s_generator(net, closed, forget):
    label = torch.randint(4, (3,), generator=CONTEXT.generator("labels"))
    piece = cross_entropy_piece(closed, net, forget, label, 1 / 3)
    closed.check(RandomLabel(), net, {"forget": forget, "retain": None}, CONTEXT, piece)


def test_gradient_ascent(form, net, closed):
    _, batch, forget, _ = form
    pieces = [cross_entropy_piece(closed, net, forget, forget["label"], -1 / 3)] if forget is not None else []
    step = None
    if pieces:
        step = closed.check(GradientAscent(), net, batch, CONTEXT, *pieces)
    else:  # a step on retained samples has a gradient, of exactly 0, for data-parallel training to wait for
        step = GradientAscent()(net, batch, CONTEXT)
        step.loss.backward()
        assert step.loss.item() == 0 and all(p.grad.count_nonzero() == 0 for p in net.parameters())
    assert len(step.logits) == len(step.target)


def test_fine_tune(form, net, closed):
    _, batch, _, retain = form
    if retain is not None:
        closed.check(FineTune(), net, batch, CONTEXT, cross_entropy_piece(closed, net, retain, retain["label"], 1 / 5))


def test_fine_tune_takes_plain_batches(net, closed, retain):
    closed.check(FineTune(), net, retain, CONTEXT, cross_entropy_piece(closed, net, retain, retain["label"], 1 / 5))


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)])
def test_l1_sparse_adds_the_norm_that_fades(net, retain, progress, share):
    net.linear.bias.requires_grad_(False)
    batch = {"forget": None, "retain": retain}
    plain = FineTune()(net, batch, CONTEXT).loss
    (expected,) = torch.autograd.grad(plain, net.linear.weight)
    step = L1Sparse(0.1, until=0.5)(net, batch, Context(progress=progress))
    (found,) = torch.autograd.grad(step.loss, net.linear.weight)
    weight = net.linear.weight.detach()
    np.testing.assert_allclose(found - expected, 0.1 * share * weight.sign(), atol=1e-12)
    norm = weight.abs().sum().item()  # a frozen weight is not counted
    assert step.terms["l1"].item() == pytest.approx(norm)
    assert step.loss.item() == pytest.approx(plain.item() + 0.1 * share * norm)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", ["paired", "mixed"])
def test_neg_grad_plus(name, alpha, net, closed, forget, retain, mixed):
    batch, forget, retain = forms(forget, retain, mixed)[name]
    pieces = [
        cross_entropy_piece(closed, net, retain, retain["label"], alpha / 5),
        cross_entropy_piece(closed, net, forget, forget["label"], -(1 - alpha) / 3),
    ]
    closed.check(NegGradPlus(alpha), net, batch, CONTEXT, *pieces)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_scrub(form, net, original, closed, epoch):
    _, batch, forget, retain = form
    objective = Scrub(alpha=0.3, gamma=0.8, msteps=2, temperature=2.0)
    objective.setup(original)
    original.linear.weight.data.zero_()  # the teacher is a copy
    teacher = objective.original.network
    pieces = []
    if forget is not None and epoch < 2:
        z, reference = closed.logits(net, forget), closed.logits(teacher, forget)
        losses, gradient = closed.divergence(z, reference, 2.0)
        pieces.append((forget["image"], -losses / 3, -gradient / 3))
    if retain is not None:
        z, reference = closed.logits(net, retain), closed.logits(teacher, retain)
        fit, near = closed.cross_entropy(z, retain["label"].numpy()), closed.divergence(z, reference, 2.0)
        losses, gradient = (0.8 * a + 0.3 * b for a, b in zip(fit, near, strict=True))
        pieces.append((retain["image"], losses / 5, gradient / 5))
    context = Context(key=(0, 0, epoch, 0))
    if pieces:
        closed.check(objective, net, batch, context, *pieces)
    else:
        assert objective(net, batch, context).loss.item() == 0


def test_the_frozen_copy_stays_in_evaluation_mode_and_is_saved(net):
    objective = Scrub()
    objective.setup(torch.nn.Sequential(torch.nn.BatchNorm1d(2)))
    objective.train()
    assert not any(module.training for module in objective.original.modules())
    assert "original.network.0.weight" in objective.state_dict()
    assert not any(p.requires_grad for p in objective.parameters())


def test_an_infinite_loss_of_the_other_kind_is_no_nan(net, mixed):
    """In a mixed batch the losses of one kind are masked out, whatever they are."""
    broken = copy.deepcopy(mixed)
    broken["image"][~mixed["forget"]] = 1e30  # logits so far apart that the cross-entropy overflows
    step = GradientAscent()(net, broken, CONTEXT)
    assert step.loss.isfinite()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: L1Sparse(-1), "strength is -1"),
        (lambda: L1Sparse(1e-5, until=0), "until is 0"),
        (lambda: NegGradPlus(1.5), "alpha is 1.5"),
        (lambda: Scrub(alpha=-1), "alpha is -1"),
        (lambda: Scrub(gamma=-1), "gamma is -1"),
        (lambda: Scrub(msteps=0), "msteps is 0"),
        (lambda: Scrub(temperature=0), "temperature is 0"),
    ],
)
def test_values_out_of_range_are_refused(build, words):
    with pytest.raises(RectifyError, match=words):
        build()
