"""Checks of what users give an attack."""

from typing import overload

from torch import Tensor

from ..errors import RectifyError
from ..ratio import Ratio

EPS, STEP = Ratio("8/255"), Ratio("2/255")  # usual on CIFAR; `--print_config` shows them like this


def check_budget(name: str, eps: float, step_size: float, steps: int, norm: str) -> None:
    """Raise RectifyError for a radius in the wrong unit or a step of nothing."""
    largest = 1 if norm == "linf" else 16
    if not 0 < eps <= largest:
        unit = "pixels in [0, 1], e.g. 8/255" if norm == "linf" else "L2 distance of pixels in [0, 1], e.g. 0.5"
        raise RectifyError(f"{name}: eps is {eps}; give it in {unit}.")
    if not step_size > 0:
        raise RectifyError(f"{name}: step_size is {step_size}, so nothing would move; give e.g. eps/4.")
    if steps < 1:
        raise RectifyError(f"{name}: steps is {steps}; at least 1 is needed.")
    if step_size > 2.5 * eps:  # 2.5 * eps / steps is a common rule, also for one step
        raise RectifyError(
            f"{name}: step_size is {step_size}, longer than the ball of eps {eps} is wide; give it in the unit of eps, "
            "e.g. eps/4."
        )


def check_choice(name: str, key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise RectifyError unless the value is one of the choices."""
    if value not in choices:
        raise RectifyError(f"{name}: {key} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}.")


def check_range(name: str, image: Tensor) -> None:
    """Raise RectifyError unless images lie in [0, 1] (one host sync)."""
    if not image.numel():
        return
    low, high = (float(bound) for bound in image.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise RectifyError(
            f"{name}: the images lie in [{low:.3g}, {high:.3g}], outside [0, 1], so eps has no meaning in pixels; "
            "leave the normalisation to the first layer of the backbone (mean, std) and take it out of the data."
        )


@overload
def per_sample(value: float, image: Tensor) -> float: ...
@overload
def per_sample(value: Tensor, image: Tensor) -> Tensor: ...
def per_sample(value: float | Tensor, image: Tensor) -> float | Tensor:
    """Return a (B,) tensor in the form in which it broadcasts against the images; numbers as they are."""
    return value.view(-1, *[1] * (image.ndim - 1)) if isinstance(value, Tensor) else value
