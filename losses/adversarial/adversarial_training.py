"""The objective of adversarial training: attack x surrogate x weighting x regulariser x weight perturbation."""

from typing import Any

import torch
from torch import Tensor, nn

from ...attacks import AdversarialBatch, Attack, CrossEntropyGain, Evidence, Gain, LogBarrier
from ...attacks._arguments import check_range
from ...collectives import global_mean_weight
from ...errors import RectifyError
from ..base_losses import CrossEntropy
from ..mixing.mixing import Mixing
from ..objective import Context, Objective, Step
from ._fit_together import check_parts
from .feature_separation import FeatureSeparation
from .implicit_gradient import implicit_term
from .overfitting_alarm import OverfittingAlarm
from .surrogates import AdversarialCrossEntropy, Surrogate, Target
from .weight_perturbation import AdversarialWeightPerturbation, Call
from .weighting import Seen, UniformWeights, Weighting


class AdversarialTraining(Objective):
    """Mean over all ranks of weight · surrogate(attacked image), plus the regulariser, at perturbed weights if wanted.

    TRADES with energy weights is WEAT, cross-entropy with class-balanced weights and separation SRAT, with KL-DRO
    weights and the implicit gradient DONE; see docs/adversarial_training.md. Logs `adversarial_accuracy` on the
    attacked training batch, the surrogate's terms (`fit`, `robust`), `largest_weight`, `separation`, and, where the
    images as they are were looked at, the energies `clean_energy` and `adversarial_energy` (means of -logsumexp of the
    logits). The accuracy of the step is that on the clean images where the surrogate trains on them.

    Args:
        attack: the inner maximisation; none is clean training, with which most weightings work, too.
        surrogate: `AdversarialCrossEntropy` by default.
        weighting: `UniformWeights` by default.
        regularizer: on the features of the attacked images.
        perturbation: of the weights.
        mixing: any method that mixes images; the mixtures are attacked.
        implicit: add how the attacked image answers to the weights (DONE); needs `LogBarrier` and one double backward.
        attack_loss: what the attack maximises in place of the surrogate's choice.
        alarm: watches for catastrophic overfitting.

    Raises:
        RectifyError: parts that do not fit together.
    """

    def __init__(
        self,
        attack: Attack | None = None,
        surrogate: Surrogate | None = None,
        weighting: Weighting | None = None,
        regularizer: FeatureSeparation | None = None,
        perturbation: AdversarialWeightPerturbation | None = None,
        mixing: Mixing | None = None,
        implicit: bool = False,
        attack_loss: Gain | None = None,
        alarm: OverfittingAlarm | None = None,
    ):
        super().__init__()
        self.attack = attack
        self.surrogate = surrogate or AdversarialCrossEntropy()
        self.weighting = weighting or UniformWeights()
        self.regularizer, self.perturbation, self.alarm = regularizer, perturbation, alarm
        self.mixing, self.implicit = mixing, implicit
        self.gain = attack_loss or self.surrogate.gain()
        self._range_checked = attack is None and alarm is None  # without an attack pixels need no unit
        check_parts(attack, self.surrogate, self.weighting, self.gain, regularizer, mixing, implicit)
        self.double_backward = implicit
        # AWP writes nothing, but it calls the network with weights of its own, which a sharded one cannot take
        self.writes_weights = perturbation is not None
        once = self.surrogate.passes
        self.passes = (attack.passes if attack else 0) + once * (2 if perturbation else 1) + implicit

    def setup(self, backbone: nn.Module) -> None:
        self.weighting.setup(backbone)

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        image, label, target = self._mixed(batch, context)
        attacked = self._attacked(backbone, image, target, context)
        network = _Outputs(backbone, with_features=self.regularizer is not None)
        call: Call = network
        if self.perturbation is not None and context.progress >= self.perturbation.start:
            call = self.perturbation.perturbed(
                network, lambda at: self._loss(at, image, attacked, target, label, context, ascent=True).loss
            )
        step = self._loss(call, image, attacked, target, label, context)
        if self.alarm is not None:
            step.terms |= self.alarm(backbone, image, label, context)
        return step

    def _mixed(self, batch: dict[str, Any], context: Context) -> tuple[Tensor, Tensor, Target]:
        if batch.get("label") is None:
            raise RectifyError("AdversarialTraining: the batch lacks `label`; use a data set with labels.")
        image, label = batch["image"], batch["label"].long()
        if not self._range_checked:  # one host sync in a run
            self._range_checked = True
            check_range("AdversarialTraining", image)
        plan = self.mixing.plan(image, context) if self.mixing else None
        if plan is None:
            return image, label, label
        target = plan.target(label)
        return plan.apply(image), target.heavier(), target

    def _attacked(
        self, backbone: nn.Module, image: Tensor, target: Target, context: Context
    ) -> AdversarialBatch | None:
        if self.attack is None:
            return None
        clean = self.weighting.needs_clean and not self.surrogate.trains_clean
        generator = context.generator("attack", image.device)
        return self.attack(backbone, image, target, self.gain, generator, clean=clean)

    def _loss(
        self,
        call: Call,
        image: Tensor,
        attacked: AdversarialBatch | None,
        target: Target,
        label: Tensor,
        context: Context,
        ascent: bool = False,
    ) -> Step:
        """Return loss and terms at one place in weight space; `ascent` is AWP's look ahead, which updates nothing."""
        x = image if attacked is None else attacked.image
        implicit = self.implicit and not ascent
        if implicit:
            x = x.detach().requires_grad_()
        clean = call(image)[1] if self.surrogate.trains_clean else None
        features, adversarial = call(x)
        parts = self.surrogate(adversarial, clean, target)
        evidence = attacked.evidence if attacked is not None else None
        looked_at = _looked_at(clean, adversarial, evidence, attacked is None)
        total = parts.total()
        seen = Seen(total.detach(), adversarial.detach(), looked_at, label, target, evidence, context.progress)
        weight = self.weighting(seen, update=not ascent)

        scale = global_mean_weight(len(image), image.device)
        per_sample = weight * total if self.weighting.term == "all" else parts.fit + parts.beta * weight * parts.robust
        loss = (per_sample.sum() * scale).to(total.dtype)
        terms = {"fit": parts.fit.mean()}
        if parts.robust is not None:
            terms["robust"] = parts.robust.mean()
        if self.regularizer is not None:
            separation = self.regularizer(features, label)
            loss = loss + self.regularizer.weight * separation
            terms["separation"] = separation
        if implicit:
            assert isinstance(self.attack, LogBarrier) and evidence is not None and evidence.curvature is not None
            lower = parts.fit if self._same_loss() else self.gain(adversarial, target, None)
            answer = implicit_term(parts.fit, lower, x, evidence.curvature, self.attack.barrier)
            answer = (weight * answer).sum() * scale
            loss = loss + (answer - answer.detach())  # a gradient without a value
        if attacked is not None:
            terms["adversarial_accuracy"] = (seen.adversarial.argmax(1) == label).float().mean()
        if not isinstance(self.weighting, UniformWeights):
            terms["largest_weight"] = weight.max()
        if looked_at is not None:
            terms["clean_energy"] = -torch.logsumexp(looked_at, 1).mean()
            if attacked is not None:
                terms["adversarial_energy"] = -torch.logsumexp(seen.adversarial, 1).mean()
        logits = adversarial if clean is None else clean
        return Step(loss, logits, label, {name: value.detach() for name, value in terms.items()})

    def _same_loss(self) -> bool:
        base = getattr(self.surrogate, "base", None)
        plain = isinstance(base, CrossEntropy) and base.smoothing == 0
        return plain and isinstance(self.gain, CrossEntropyGain)


class _Outputs(nn.Module):
    """A backbone that also returns the features, if they are wanted."""

    def __init__(self, backbone: nn.Module, with_features: bool):
        super().__init__()
        self.backbone, self._with_features = backbone, with_features

    def forward(self, image: Tensor) -> tuple[Tensor | None, Tensor]:
        if not self._with_features:
            return None, self.backbone(image)
        features = self.backbone.features(image)  # type: ignore[operator]
        return features, self.backbone.head(features)  # type: ignore[operator]


def _looked_at(clean: Tensor | None, adversarial: Tensor, evidence: Evidence | None, plain: bool) -> Tensor | None:
    """The logits of the images as they are, from wherever they were computed anyway."""
    if plain:
        return adversarial.detach()
    if clean is not None:
        return clean.detach()
    return evidence.clean if evidence is not None else None
