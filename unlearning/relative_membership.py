"""RMIA: membership by comparison with samples of the population, for few reference models."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import RectifyError
from .attack_curve import AttackCurve
from .member_scores import membership_scores
from .outputs import Outputs, Split


def rmia_scores(
    target: Tensor,
    population: Tensor,
    reference: Tensor,
    reference_population: Tensor,
    gamma: float = 2.0,
    offline: float | None = 0.3,
) -> Tensor:
    """Return (n,) the share of population samples z with [p(x)/p_ref(x)] / [p(z)/p_ref(z)] ≥ gamma.

    Zarifzadeh et al. 2024 (RMIA). The larger, the more a sample looks like a member. All arguments are soft-max
    probabilities of the label. Sorting the population's ratios once makes it O((n + m) log m).

    Args:
        target: (n,) of the audited model on the audited samples.
        population: (m,) of the audited model on samples it was not trained on.
        reference: (R, n) of reference models not trained on the audited samples: one is enough.
        reference_population: (R, m) of the same models.
        gamma: how far a sample must stand out; 1 or more.
        offline: the reference models have not seen the audited samples, so their mean is lifted to
            ((1 + a)·p + 1 - a) / 2 with a = `offline`; None if half of the models have seen each sample.

    Raises:
        RectifyError: there are no reference models, or gamma is below 1.
    """
    if reference.ndim != 2 or not len(reference) or len(reference) != len(reference_population):
        raise RectifyError("RMIA needs the same one or more reference models on the audited and population samples.")
    if gamma < 1:
        raise RectifyError(f"gamma is {gamma}; RMIA needs at least 1.")

    def ratio(probability: Tensor, of_references: Tensor) -> Tensor:
        mean = of_references.double().mean(0)
        if offline is not None:
            mean = ((1 + offline) * mean + 1 - offline) / 2
        return probability.double() / mean.clamp_min(1e-300)

    # the population is lifted too: the references have not seen those samples either
    own = ratio(target, reference)
    others = ratio(population, reference_population).sort().values
    return torch.searchsorted(others, own / gamma, right=True).double() / len(others)


def rmia_auc(target: Outputs, references: Sequence[Outputs]) -> float:
    """Return the AUC, in per cent, with which RMIA tells the forget set from the test set; 50 is a guess.

    The references are models retrained without the forget set, so they have seen neither of the two; the population is
    the validation set, or the test set if there is none. A model that has forgotten stands at about 50. Far below it
    the model is worse on the forget set than models that never saw it, which gives it away just as well.

    Args:
        target: outputs of the audited model, which must not be among the references.
        references: outputs of one retrained model or more on the same samples.
    """
    name = "val" if "val" in target else "test"
    population, behind = _confidence(target[name]), torch.stack([_confidence(one[name]) for one in references])
    scores = []
    for split in ("forget", "test"):
        reference = torch.stack([_confidence(one[split]) for one in references])
        scores.append(rmia_scores(_confidence(target[split]), population, reference, behind, gamma=1.0))
    return 100 * AttackCurve.of(*scores).auc


def _confidence(split: Split) -> Tensor:
    return membership_scores(split["logits"], split["label"])["confidence"]
