"""The objective against one written out by hand, and every combination of parts: it works or it says so."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_rectify.attacks import (
    APGD,
    FGSM,
    NFGSM,
    PGD,
    CarliniWagnerMargin,
    DivergenceGain,
    FastAutoAttack,
    LogBarrier,
)
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import (
    AdversarialCrossEntropy,
    AdversarialTraining,
    AdversarialWeightPerturbation,
    ClassBalancedWeights,
    Context,
    CutMix,
    EnergyWeights,
    FeatureSeparation,
    FMix,
    GeometryWeights,
    KLDROWeights,
    ManifoldMixup,
    MarginWeights,
    Mart,
    Mixup,
    Trades,
    UniformWeights,
)

K = 4
SURROGATES = {"ce": AdversarialCrossEntropy, "trades": Trades, "mart": Mart}
WEIGHTINGS = {
    "uniform": UniformWeights,
    "energy": EnergyWeights,
    "kl_dro": KLDROWeights,
    "geometry": GeometryWeights,
    "margin": MarginWeights,
    "class_balanced": lambda: ClassBalancedWeights([9, 3, 2, 1]),
}


def batch(n=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    return {
        "image": torch.rand(n, 3, 8, 8, generator=generator, dtype=dtype),
        "label": torch.randint(K, (n,), generator=generator),
    }


def net(norm="batch"):
    torch.manual_seed(2)
    return ResNet(K, 3, width=8, norm=norm)


def test_weat_written_out():
    """TRADES-KL PGD from a tiny normal start in eval mode, then w·CE(adversarial) + 7·w·KL in training mode."""
    backbone, data, context = net().double(), batch(dtype=torch.float64), Context(key=(1, 2))
    image, label = data["image"], data["label"]
    net_eval = copy.deepcopy(backbone).eval()
    noise = torch.empty_like(image).normal_(generator=context.generator("attack"))
    x, clean = (image + 1e-3 * noise).clamp(0, 1), net_eval(image).softmax(1).detach()
    for _ in range(3):
        x = x.detach().requires_grad_()
        kl = F.kl_div(net_eval(x).log_softmax(1), clean, reduction="sum")
        x = x.detach() + 2 / 255 * torch.autograd.grad(kl, x)[0].sign()
        x = torch.min(torch.max(x, image - 8 / 255), image + 8 / 255).clamp(0, 1)
    trained = copy.deepcopy(backbone).train()
    natural, adversarial = trained(image), trained(x.detach())
    weight = 1 / (1 + torch.logsumexp(natural, 1).abs().exp()).log().detach()
    p = natural.softmax(1)
    kl = (p * (p.log() - adversarial.log_softmax(1))).sum(1)
    expected = (weight * F.cross_entropy(adversarial, label, reduction="none")).mean() + 7 * (weight * kl).mean()
    expected.backward()

    objective = AdversarialTraining(PGD(steps=3, start="normal"), Trades(7.0, "adversarial"), EnergyWeights())
    step = objective(backbone.train(), data, context)
    step.loss.backward()
    torch.testing.assert_close(step.loss, expected, rtol=1e-6, atol=0)
    for ours, theirs in zip(backbone.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)
    for ours, theirs in zip(backbone.buffers(), trained.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(step.logits, natural)
    energy = -torch.logsumexp(natural, 1).mean()
    torch.testing.assert_close(step.terms["clean_energy"], energy.detach())
    torch.testing.assert_close(step.terms["adversarial_energy"], -torch.logsumexp(adversarial, 1).mean().detach())
    hits = (adversarial.argmax(1) == label).double().mean()
    torch.testing.assert_close(step.terms["adversarial_accuracy"].double(), hits)


def test_mail_trades_weighs_the_robust_term_only():
    backbone, data = net("group").double(), batch(dtype=torch.float64)
    weighting = MarginWeights(2.0, 0.0, term="robust")
    objective = AdversarialTraining(PGD(steps=2), Trades(5.0), weighting)
    step = objective(backbone, data, Context())
    x = objective.attack(backbone, data["image"], data["label"], DivergenceGain(), Context().generator("attack")).image
    clean, adversarial = backbone(data["image"]), backbone(x)
    p, q = clean.softmax(1), adversarial.softmax(1)
    right = q[range(8), data["label"]]
    wrong = q.scatter(1, data["label"][:, None], 0).amax(1)
    weight = 3 * torch.sigmoid(2 * (wrong - right))
    expected = F.cross_entropy(clean, data["label"]) + 5 * (weight * (p * (p / q).log()).sum(1)).mean()
    torch.testing.assert_close(step.loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("surrogate", "weighting"), itertools.product(SURROGATES, WEIGHTINGS))
def test_every_surrogate_with_every_weighting(surrogate, weighting):
    backbone = net()
    objective = AdversarialTraining(
        PGD(steps=2),
        SURROGATES[surrogate](),
        WEIGHTINGS[weighting](),
        FeatureSeparation(),
        AdversarialWeightPerturbation(),
    )
    state = torch.get_rng_state()
    step = objective(backbone, batch(), Context())
    step.loss.backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(bool(p.grad.isfinite().all()) and float(p.grad.abs().max()) > 0 for p in backbone.parameters())
    assert {"fit", "separation", "adversarial_accuracy"} <= set(step.terms)
    assert not any(value.requires_grad for value in step.terms.values())
    assert objective.writes_weights and not objective.double_backward


@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "geometry"])
def test_weightings_on_clean_training(weighting):
    backbone, data = net("group"), batch()
    logits = backbone(data["image"])
    objective = AdversarialTraining(weighting=WEIGHTINGS[weighting]())
    loss = objective(backbone, data, Context()).loss
    plain = F.cross_entropy(logits, data["label"])
    assert (loss.item() == pytest.approx(plain.item())) == (weighting == "uniform")
    if weighting == "energy":
        weight = 1 / F.softplus(torch.logsumexp(logits, 1).abs())
        torch.testing.assert_close(loss, (weight * F.cross_entropy(logits, data["label"], reduction="none")).mean())


@pytest.mark.parametrize("mixing", [Mixup, CutMix, FMix])
@pytest.mark.parametrize("weighting", ["uniform", "energy", "kl_dro", "class_balanced"])
def test_mixtures_are_attacked(mixing, weighting):
    backbone, data, context = net("group"), batch(), Context(key=(9,))
    mixer = mixing()
    objective = AdversarialTraining(PGD(steps=2), weighting=WEIGHTINGS[weighting](), mixing=mixer)
    step = objective(backbone, data, context)
    plan = mixer.plan(data["image"], context)
    assert torch.equal(step.target, plan.target(data["label"]).heavier())
    if weighting == "uniform":
        mixed, target = plan.apply(data["image"]), plan.target(data["label"])
        x = PGD(steps=2)(backbone, mixed, target, generator=context.generator("attack")).image
        assert float((x - mixed).abs().max()) <= 8 / 255
        torch.testing.assert_close(step.loss, target.loss(backbone(x)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("moved", [lambda x: x * 4 - 2, lambda x: x * 255, lambda x: x - 0.1])
def test_images_outside_the_unit_range(moved):
    data = batch()
    with pytest.raises(RectifyError, match=r"outside \[0, 1\].*first layer of the backbone"):
        AdversarialTraining(PGD(steps=1))(net(), data | {"image": moved(data["image"])}, Context())


MIX = {"mixing": Mixup()}
REFUSED = [
    ({"surrogate": Trades()}, "Trades compares clean with attacked images; give attack"),
    ({"weighting": GeometryWeights()}, "GeometryWeights counts the steps of an attack.* none is given"),
    ({"attack": FGSM(), "weighting": GeometryWeights()}, "FGSM takes 1; choose PGD"),
    ({"attack": NFGSM(), "weighting": KLDROWeights(prior=GeometryWeights())}, "NFGSM takes 1; choose PGD"),
    ({"attack": PGD(), "weighting": MarginWeights(term="robust")}, "AdversarialCrossEntropy has one term"),
    ({"attack": PGD(), "implicit": True}, "implicit needs the curvature of a barrier; choose attack LogBarrier"),
    ({"attack": LogBarrier(), "surrogate": Trades(), "implicit": True}, "not Trades"),
    ({"attack": LogBarrier(), "attack_loss": DivergenceGain(), "implicit": True}, "not DivergenceGain"),
    ({"attack": PGD(start="none"), "surrogate": Trades()}, "PGD starts at the image, where DivergenceGain has no grad"),
    ({"attack": FGSM(), "surrogate": Trades()}, "FGSM starts at the image"),
    ({"attack": NFGSM(noise=0), "surrogate": Trades()}, "NFGSM starts at the image"),
    ({"attack": LogBarrier(), "surrogate": Trades()}, "LogBarrier starts at the image"),
    ({"attack": APGD(loss="dlr")}, "APGD.loss is dlr, but the objective decides.* give attack_loss"),
    ({"attack": FastAutoAttack(), **MIX}, "FastAutoAttack needs one label"),
    ({"attack": PGD(), "mixing": ManifoldMixup(["layer1"])}, "ManifoldMixup mixes inside the network"),
    ({"attack": PGD(), "surrogate": Mart(), **MIX}, "Mart needs one label, and a mixture by Mixup has several"),
    ({"attack": PGD(), "weighting": MarginWeights(), **MIX}, "MarginWeights needs one label"),
    ({"attack": PGD(), "weighting": GeometryWeights(), **MIX}, "GeometryWeights needs one label"),
    ({"attack": PGD(), "weighting": KLDROWeights(prior=[0.5, 0.5]), **MIX}, "KLDROWeights needs one label"),
    ({"attack": PGD(), "attack_loss": CarliniWagnerMargin(), **MIX}, "CarliniWagnerMargin needs one label"),
    ({"attack": PGD(), "regularizer": FeatureSeparation(), **MIX}, "FeatureSeparation needs one label"),
]


@pytest.mark.parametrize(("parts", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_what_does_not_fit_says_so(parts, words):
    with pytest.raises(RectifyError, match=words):
        AdversarialTraining(**parts)


def test_srat_takes_a_step_under_bf16():
    backbone, data = net(), batch(16)
    attack = PGD(steps=2, batch_statistics=True)
    objective = AdversarialTraining(attack, None, ClassBalancedWeights([9, 3, 2, 1]), FeatureSeparation())
    expected = objective(copy.deepcopy(backbone), data, Context()).loss
    with torch.autocast("cpu", torch.bfloat16):
        step = objective(backbone, data, Context())
    step.loss.backward()
    torch.testing.assert_close(step.loss, expected, rtol=0.05, atol=0)
    assert all(bool(p.grad.isfinite().all()) and float(p.grad.abs().max()) > 0 for p in backbone.parameters())


def test_without_an_attack_nothing_is_called_adversarial_and_images_may_be_normalised():
    data = batch()
    objective = AdversarialTraining(weighting=EnergyWeights())
    step = objective(net(), data | {"image": data["image"] * 4 - 2}, Context())
    assert {"fit", "clean_energy"} <= set(step.terms)
    assert not any("adversarial" in name for name in step.terms)


def test_labels_missing_or_short():
    objective, data = AdversarialTraining(PGD(steps=1), Mart()), batch()
    with pytest.raises(RectifyError, match="the batch lacks `label`"):
        objective(net(), {"image": data["image"]}, Context())
    losses = [objective(net(), data | {"label": y}, Context()).loss for y in (data["label"], data["label"].int())]
    assert torch.equal(*losses)


def test_class_counts_are_checked_against_the_network():
    objective = AdversarialTraining(PGD(), weighting=ClassBalancedWeights([1, 2]))
    with pytest.raises(RectifyError, match="2 entries for 4 classes"):
        objective.setup(net())


def test_the_evidence_of_the_attack_needs_no_further_pass():
    """Forward passes of the network in a step: K attack steps, the clean one of TRADES' attack, and those trained."""

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = net("group"), 0

        def forward(self, image):
            self.calls += 1
            return self.inner(image)

    expected = {
        6: AdversarialTraining(PGD(steps=5), weighting=GeometryWeights()),
        7: AdversarialTraining(PGD(steps=5), weighting=EnergyWeights()),  # the clean logits, from the attack
        8: AdversarialTraining(PGD(steps=5), Trades(), EnergyWeights()),
        1: AdversarialTraining(weighting=EnergyWeights()),
    }
    for calls, objective in expected.items():
        backbone = Counted()
        objective(backbone, batch(), Context())
        assert backbone.calls == calls
