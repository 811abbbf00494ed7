"""AWP against the published sequence: copy, ascend, rescale, move, differentiate, move back."""

import copy

import pytest
import torch
from torch.nn import functional as F

from lightning_rectify.attacks import PGD
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import AdversarialTraining, AdversarialWeightPerturbation, Context, KLDROWeights, Trades

GAMMA = 0.01


def reference(backbone, image, x, label, surrogate):
    """Loss, gradient and buffers of a proxy that is moved and moved back."""

    def loss(net):
        clean = net(image) if surrogate.trains_clean else None
        return surrogate(net(x), clean, label).total().mean()

    proxy = copy.deepcopy(backbone)
    loss(proxy).backward()
    moved = copy.deepcopy(backbone)
    with torch.no_grad():
        for w, p in zip(moved.parameters(), proxy.parameters(), strict=True):
            if w.ndim > 1:
                diff = 0.01 * p.grad
                w += GAMMA * w.norm() / (diff.norm() + 1e-20) * diff
    value = loss(moved)
    value.backward()
    return value.detach(), [w.grad for w in moved.parameters()], dict(moved.named_buffers())


@pytest.mark.parametrize("surrogate", [None, Trades(6.0)], ids=["ce", "trades"])
def test_equals_the_published_sequence_and_leaves_weights_exact(surrogate):
    torch.manual_seed(1)
    backbone = ResNet(4, 3, width=8).double().train()
    image, label = torch.rand(8, 3, 8, 8, dtype=torch.float64), torch.randint(4, (8,))
    before = [w.detach().clone() for w in backbone.parameters()]
    attack = PGD(steps=2)
    objective = AdversarialTraining(attack, surrogate, perturbation=AdversarialWeightPerturbation(GAMMA))
    context = Context(key=(3,))
    x = attack(backbone, image, label, objective.gain, context.generator("attack")).image
    value, gradients, buffers = reference(backbone, image, x, label, objective.surrogate)
    step = objective(backbone, {"image": image, "label": label}, context)
    step.loss.backward()
    torch.testing.assert_close(step.loss.detach(), value, rtol=1e-6, atol=0)
    for parameter, gradient, old in zip(backbone.parameters(), gradients, before, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-9)
        assert torch.equal(parameter, old)
    for name, buffer in backbone.named_buffers():  # the ascent pass has left no batch-norm statistics behind
        torch.testing.assert_close(buffer, buffers[name])


def test_the_perturbation_raises_the_loss_and_sets_in_at_its_start():
    torch.manual_seed(1)
    backbone, batch = ResNet(4, 3, width=8, norm="group"), {"image": torch.rand(8, 3, 8, 8)}
    batch["label"] = torch.randint(4, (8,))
    perturbation = AdversarialWeightPerturbation(0.05, start=0.5)
    objective = AdversarialTraining(perturbation=perturbation)
    early, late = (objective(backbone, batch, Context(progress=progress)).loss for progress in (0.4, 0.5))
    torch.testing.assert_close(early, F.cross_entropy(backbone(batch["image"]), batch["label"]))
    assert float(late) > float(early) + 1e-3


def test_the_look_ahead_updates_no_running_statistic():
    torch.manual_seed(1)
    backbone, batch = ResNet(4, 3, width=8, norm="group"), {"image": torch.rand(8, 3, 8, 8)}
    batch["label"] = torch.randint(4, (8,))
    objective = AdversarialTraining(weighting=KLDROWeights(), perturbation=AdversarialWeightPerturbation())
    calls = []
    objective.weighting.register_forward_hook(lambda module, args, kwargs, out: calls.append(kwargs), with_kwargs=True)
    objective(backbone, batch, Context())
    assert calls == [{"update": False}, {"update": True}]


def test_bad_arguments():
    with pytest.raises(RectifyError, match="gamma is 0"):
        AdversarialWeightPerturbation(0)
    with pytest.raises(RectifyError, match="start is 7"):
        AdversarialWeightPerturbation(start=7)
