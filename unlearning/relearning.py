"""The relearning attack: how many steps bring the forgotten back?"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RectifyError
from ..frozen import frozen_eval
from ..randomness import keyed_generator


@dataclass(frozen=True)
class RelearningCurve:
    """Accuracy on the forget set against gradient steps on it.

    Attributes:
        steps: gradient steps done, from 0.
        accuracy: per cent at each of them.
    """

    steps: list[int]
    accuracy: list[float]

    def steps_to(self, level: float) -> int | None:
        """First measured step with an accuracy of at least `level` per cent; None if it was not reached."""
        return next((step for step, found in zip(self.steps, self.accuracy, strict=True) if found >= level), None)

    @property
    def area(self) -> float:
        """Mean accuracy over the steps, by trapezoids: one figure for the curve, in per cent."""
        width = self.steps[-1] - self.steps[0]
        if not width:
            return self.accuracy[0]
        return float(torch.trapezoid(torch.tensor(self.accuracy), torch.tensor(self.steps))) / width

    def report(self) -> dict[str, Any]:
        """What goes into `unlearning.json`."""
        return {"steps": self.steps, "accuracy": self.accuracy, "area": self.area}


def relearning_curve(
    step: Callable[[int], None], accuracy: Callable[[], float], steps: int, every: int = 1
) -> RelearningCurve:
    """Run `steps` gradient steps and measure before the first, after each `every`-th and after the last.

    A model that only hides what it learned recovers in fewer steps than a retrained one needs to learn it: compare the
    curve with that of the retrained model, under the same steps.

    Args:
        step: `step(i)` does the i-th gradient step on forget samples.
        accuracy: returns the forget accuracy in per cent.
    """
    if steps < 1 or every < 1:
        raise RectifyError(f"A relearning attack of {steps} steps, measured every {every}, needs at least 1 of both.")
    places, found = [0], [accuracy()]
    for i in range(steps):
        step(i)
        if (i + 1) % every == 0 or i + 1 == steps:
            places.append(i + 1)
            found.append(accuracy())
    return RelearningCurve(places, found)


def relearn(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    steps: int = 20,
    lr: float = 1e-3,
    batch_size: int = 64,
    every: int = 1,
    shots: int | None = None,
    seed: int = 0,
) -> RelearningCurve:
    """Attack a copy of a model with SGD (momentum 0.9) on its forget set; the model itself is left as it is.

    The copy runs in eval mode: batch statistics would shift with the forget set and mix two effects.

    Args:
        model: maps images to logits (n, K).
        image, label: (n, C, H, W) and (n,) of the forget set.
        shots: the attacker has only that many samples of each class; accuracy is still measured on all.
        seed: of the batches and the shots.
    """
    with torch.inference_mode(False):  # weights made inside it could not be trained
        copied = copy.deepcopy(model).eval()
    for weight in copied.parameters():
        weight.requires_grad_(True)
    optimizer = torch.optim.SGD(copied.parameters(), lr, momentum=0.9)
    known = torch.arange(len(label)) if shots is None else _few(label, shots, seed)

    def step(number: int) -> None:
        draw = keyed_generator(seed, number, "relearning")
        chosen = known[torch.randperm(len(known), generator=draw)[:batch_size]].to(label.device)
        with torch.inference_mode(False), torch.enable_grad():
            optimizer.zero_grad()
            F.cross_entropy(copied(image[chosen].clone()), label[chosen].clone()).backward()
            optimizer.step()

    def accuracy() -> float:
        with frozen_eval(copied):
            pieces = [(copied(x).argmax(1) == y) for x, y in zip(image.split(512), label.split(512), strict=True)]
        return 100 * float(torch.cat(pieces).double().mean())

    return relearning_curve(step, accuracy, steps, every)


def _few(label: Tensor, shots: int, seed: int) -> Tensor:
    order = torch.randperm(len(label), generator=keyed_generator(seed, "shots"))
    shuffled = label.cpu()[order]
    return torch.cat([order[(shuffled == kind).nonzero().flatten()[:shots]] for kind in shuffled.unique()])
