"""The attacks of a report, each under the name that its log keys end with."""

from dataclasses import dataclass
from typing import Any, Literal

from ..attacks import PGD, Attack, AutoAttack, CarliniWagnerMargin, FastAutoAttack, Gain
from ..attacks.pgd import Norm
from ..errors import RectifyError

AutoAttackMode = Literal["none", "fast", "standard"]


@dataclass(frozen=True)
class Trial:
    """An attack, what it maximises (None: its own choice), and its name, such as `pgd20` or `cw50x10`."""

    name: str
    attack: Attack
    loss: Gain | None = None

    def settings(self) -> dict[str, Any]:
        """What a reader needs in order to run it again."""
        known = ("eps", "norm", "step_size", "steps", "start", "restarts", "targets", "queries")
        found = {key: getattr(self.attack, key) for key in known if hasattr(self.attack, key)}
        return {"class": type(self.attack).__name__, "loss": type(self.loss).__name__ if self.loss else None, **found}


def attack_name(attack: Attack, prefix: str | None = None) -> str:
    """Return `pgd20`, with restarts `pgd50x10`, in L2 `pgd20_l2`."""
    name = f"{prefix or type(attack).__name__.lower()}{getattr(attack, 'steps', '')}"
    if getattr(attack, "restarts", 1) > 1:
        name += f"x{attack.restarts}"  # type: ignore[attr-defined]
    return name + ("_l2" if getattr(attack, "norm", "linf") == "l2" else "")


def trials_of_test(attack: Attack, test_attack: Attack | None, margin: bool, autoattack: AutoAttackMode) -> list[Trial]:
    """The validation's attack, a stronger one, the same on the margin, and AutoAttack if wanted.

    Raises:
        RectifyError: attack and test_attack are one, or their radii or norms differ.
    """
    eps, norm = _threat_model(attack)
    several = getattr(attack, "steps", 1) > 1  # the one step of FGSM is as long as the radius
    step_size = getattr(attack, "step_size", eps / 4) if several else eps / 4
    strong = test_attack or PGD(eps, step_size, 50, norm, restarts=10)
    other_eps, other_norm = _threat_model(strong)
    if other_norm != norm or abs(other_eps - eps) > 1e-6 * eps:
        raise RectifyError(
            f"RobustnessReport: attack is {norm} with eps {eps:.4g}, test_attack {other_norm} with eps "
            f"{other_eps:.4g}; one report has one threat model, so give both the same, or add a second report."
        )
    trials = [Trial(attack_name(attack), attack), Trial(attack_name(strong), strong)]
    if margin:
        trials.append(Trial(attack_name(strong, "cw"), strong, CarliniWagnerMargin()))
    if autoattack == "fast":
        trials.append(Trial("autoattack_fast", FastAutoAttack(eps, norm)))
    if autoattack == "standard":
        trials.append(Trial("autoattack", AutoAttack(eps, norm)))
    names = [trial.name for trial in trials]
    if len(set(names)) < len(names):
        raise RectifyError(
            f"RobustnessReport: attack and test_attack are both {names[0]}; give test_attack more steps or restarts."
        )
    return trials


def _threat_model(attack: Attack) -> tuple[float, Norm]:
    return float(getattr(attack, "eps", 8 / 255)), getattr(attack, "norm", "linf")
