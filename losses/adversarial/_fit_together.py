"""Which parts of adversarial training fit together."""

from ...attacks import Attack, DivergenceGain, Gain, LogBarrier
from ...errors import RectifyError
from ..mixing.mixing import Mixing
from .feature_separation import FeatureSeparation
from .surrogates import AdversarialCrossEntropy, Surrogate
from .weighting import Weighting


def check_parts(
    attack: Attack | None,
    surrogate: Surrogate,
    weighting: Weighting,
    gain: Gain,
    regularizer: FeatureSeparation | None,
    mixing: Mixing | None,
    implicit: bool,
) -> None:
    """Raise RectifyError for a combination that has no meaning."""
    names = {part: type(part).__name__ for part in (attack, surrogate, weighting, gain, regularizer, mixing)}
    steps = getattr(attack, "steps", 1)
    if attack is None and surrogate.trains_clean:
        raise RectifyError(f"AdversarialTraining: {names[surrogate]} compares clean with attacked images; give attack.")
    if weighting.least_steps and (attack is None or steps < weighting.least_steps):
        taken = "none is given" if attack is None else f"{names[attack]} takes {steps}"
        raise RectifyError(
            f"AdversarialTraining: {names[weighting]} counts the steps of an attack, {weighting.least_steps} or more, "
            f"and {taken}; choose PGD."
        )
    if weighting.term == "robust" and not surrogate.trains_clean:
        raise RectifyError(
            f"AdversarialTraining: weighting.term is robust, but {names[surrogate]} has one term; use all."
        )
    if implicit and not isinstance(attack, LogBarrier):
        raise RectifyError("AdversarialTraining: implicit needs the curvature of a barrier; choose attack LogBarrier.")
    if implicit and not isinstance(surrogate, AdversarialCrossEntropy):
        raise RectifyError(
            f"AdversarialTraining: implicit is defined for AdversarialCrossEntropy, not {names[surrogate]}."
        )
    if implicit and gain.needs_clean:
        raise RectifyError(f"AdversarialTraining: implicit needs an attack_loss of the labels, not {names[gain]}.")
    if attack is not None:
        _check_gain(attack, gain)
    if mixing is not None:
        _check_mixing(mixing, attack, surrogate, weighting, gain, regularizer)


def _check_gain(attack: Attack, gain: Gain) -> None:
    name = type(attack).__name__
    own = getattr(attack, "loss", "ce")
    if own != "ce":  # here the attack maximises what it is given
        raise RectifyError(
            f"AdversarialTraining: {name}.loss is {own}, but the objective decides what the attack maximises; leave it "
            "at ce and give attack_loss."
        )
    starts_at_image = isinstance(attack, LogBarrier) or getattr(attack, "start", None) == "none"
    if isinstance(gain, DivergenceGain) and (starts_at_image or getattr(attack, "noise", None) == 0):
        raise RectifyError(
            f"AdversarialTraining: {name} starts at the image, where {type(gain).__name__} has no gradient; choose PGD "
            "with start normal, or attack_loss CrossEntropyGain."
        )


def _check_mixing(
    mixing: Mixing,
    attack: Attack | None,
    surrogate: Surrogate,
    weighting: Weighting,
    gain: Gain,
    regularizer: FeatureSeparation | None,
) -> None:
    if type(mixing).mixed_logits is not Mixing.mixed_logits:
        raise RectifyError(
            f"AdversarialTraining: {type(mixing).__name__} mixes inside the network, where no image is to attack; "
            "choose a mixing of the input."
        )
    for part in (attack, surrogate, weighting, gain):
        if part is not None and part.needs_label:
            raise RectifyError(
                f"AdversarialTraining: {type(part).__name__} needs one label, and a mixture by {type(mixing).__name__} "
                "has several; leave one of the two out."
            )
    if regularizer is not None:
        raise RectifyError(
            f"AdversarialTraining: {type(regularizer).__name__} needs one label, and a mixture by "
            f"{type(mixing).__name__} has several; leave one of the two out."
        )
