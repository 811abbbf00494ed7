"""RandAugment with torchvision's operations, every sample with operations of its own."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RectifyError
from .augmentation import Augmentation

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness"),
    *("color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
_SIGNED = frozenset(OPERATIONS[1:10])


class RandAugment(Augmentation):
    """Apply `operations` random operations at one magnitude (Cubuk et al. 2020), with the ranges of torchvision v2.

    Operation and sign are drawn for every sample; samples with the same draw are transformed together, so a batch
    costs at most 23 calls an operation slot. The magnitude is fixed, as in torchvision. Uncovered pixels become zero.

    Args:
        operations: operations in a row.
        magnitude: bin of the strength, 0 to 30.
    """

    def __init__(self, operations: int = 2, magnitude: int = 9):
        if operations < 1 or not 0 <= magnitude <= 30:
            raise RectifyError(
                f"RandAugment: operations is {operations} and magnitude {magnitude}; give at least 1, and 0 to 30."
            )
        self.operations, self.magnitude = operations, magnitude

    def __call__(self, image: Tensor, keys: Tensor, stream: int = 0) -> Tensor:
        draws = self._uniform(keys, stream, 2 * self.operations)
        out = image.clone()
        for slot in range(self.operations):
            chosen = (draws[:, 2 * slot] * len(OPERATIONS)).long()
            negative = draws[:, 2 * slot + 1] < 0.5
            for number, name in enumerate(OPERATIONS):
                for sign in (-1, 1) if name in _SIGNED else (1,):
                    mine = chosen == number
                    if name in _SIGNED:
                        mine &= negative == (sign < 0)
                    rows = mine.nonzero().flatten()  # on the CPU: no host sync
                    if len(rows) and name != "identity":
                        rows = rows.to(image.device, non_blocking=True)
                        out[rows] = apply_operation(name, out[rows], self.magnitude / 30, sign)
        return out


def apply_operation(name: str, image: Tensor, strength: float, sign: int = 1) -> Tensor:
    """Apply one operation to (B, C, H, W), uint8 or float in [0, 1], at a strength in [0, 1]."""
    from torchvision.transforms.v2 import functional as V

    height, width = image.shape[-2:]
    s = sign * strength

    def affine(shift: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Tensor:
        top_left = [0, 0] if any(shear) else None
        return V.affine(image, angle=0, translate=list(shift), scale=1.0, shear=list(shear), center=top_left)

    def enhance(function: Callable[[Tensor, float], Tensor]) -> Tensor:
        grey = image.shape[1] == 1 and name == "color"  # no colour to change
        return image if grey else function(image, 1 + 0.9 * s)

    degrees = math.degrees(math.atan(0.3 * s))
    table: dict[str, Callable[[], Tensor]] = {
        "shear_x": lambda: affine(shear=(degrees, 0.0)),
        "shear_y": lambda: affine(shear=(0.0, degrees)),
        "translate_x": lambda: affine(shift=(int(150 / 331 * width * s), 0)),
        "translate_y": lambda: affine(shift=(0, int(150 / 331 * height * s))),
        "rotate": lambda: V.rotate(image, 30 * s),
        "brightness": lambda: enhance(V.adjust_brightness),
        "color": lambda: enhance(V.adjust_saturation),
        "contrast": lambda: enhance(V.adjust_contrast),
        "sharpness": lambda: enhance(V.adjust_sharpness),
        "posterize": lambda: V.posterize(image, 8 - round(strength * 4)),
        "solarize": lambda: V.solarize(image, (1 - strength) * (255 if image.dtype == torch.uint8 else 1.0)),
        "autocontrast": lambda: V.autocontrast(image),
        "equalize": lambda: V.equalize(image),
    }
    return table[name]()
