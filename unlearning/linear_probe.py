"""The linear probe: is what the head forgot still in the features?"""

import torch
from torch import Tensor

from ..errors import RectifyError


def probe_accuracy(
    fit_features: Tensor, fit_label: Tensor, features: Tensor, label: Tensor, ridge: float = 1e-3
) -> float:
    """Return the per cent of samples that a linear classifier on frozen features gets right.

    The classifier is ridge regression on one-hot labels, in closed form: one solution, no seed. Features are centred
    and scaled by the fitting samples. Fit on samples of all classes, forgotten ones included, and measure on other
    samples of the forgotten classes: an accuracy above the retrained model's says that only the head was misaligned.

    Args:
        fit_features, fit_label: (m, D) float and (m,) int64.
        features, label: (n, D) and (n,), not among the samples fitted on.
        ridge: penalty on the squared weights, relative to the number of samples.

    Raises:
        RectifyError: there are no samples, or the sizes of the features differ.
    """
    if not len(fit_label) or not len(label) or fit_features.shape[1:] != features.shape[1:]:
        found = f"{tuple(fit_features.shape)} and {tuple(features.shape)}"
        raise RectifyError(f"A linear probe needs features (m, D) to fit and (n, D) to measure, got {found}.")
    x = fit_features.double()
    mean = x.mean(0)
    x = x - mean
    scale = x.square().mean(0).sqrt()
    scale = scale.where(scale > 0, 1.0)
    x = x / scale
    classes, where = fit_label.unique(return_inverse=True)
    y = torch.nn.functional.one_hot(where, len(classes)).double()
    offset = y.mean(0)
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (y - offset))
    answer = ((features.double() - mean) / scale) @ weight + offset
    return 100 * float((classes[answer.argmax(1)] == label).double().mean())
