"""How far an unlearned model is from a retrained one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import RectifyError

GAPS = ("UA", "RA", "TA", "MIA_confidence")


def average_gap(unlearned: Mapping[str, float], retrained: Mapping[str, float], keys: Sequence[str] = GAPS) -> float:
    """Return the mean of |difference| over UA, RA, TA and MIA_confidence, in percentage points; 0 is best."""
    return sum(abs(unlearned[key] - retrained[key]) for key in keys) / len(keys)


def tug_of_war(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """Return ToW = Π over UA, RA, TA of (1 - |difference| / 100), in [0, 1]; 1 is best (Zhao et al. 2024)."""
    tow = 1.0
    for key in ("UA", "RA", "TA"):
        tow *= 1 - abs(unlearned[key] - retrained[key]) / 100
    return tow


def klom_distance(
    unlearned: Tensor, oracle: Tensor, bins: int = 20, clip: float = 100.0, floor: float = 1e-5
) -> Tensor:
    """Return (n,) KL divergence, in nats, of each sample's margins under unlearned models from those under oracles.

    Margins are clipped to ±`clip` and counted in `bins` equal bins between the smallest and the largest margin of the
    sample. A bin without oracles counts as `floor`, so one sample's KLOM is at most -log(floor), 11.5 (Rinberg et al.
    2025). With few models even oracles are apart from each other: compare with the KLOM of one half of the oracles from
    the other.

    Args:
        unlearned: (N, n) margins of N unlearned models, see `logit_margin`.
        oracle: (M, n) margins of M models retrained without the forget set.

    Raises:
        RectifyError: a side has fewer than 2 models, or the samples differ.
    """
    if min(len(unlearned), len(oracle)) < 2 or unlearned.shape[1:] != oracle.shape[1:]:
        raise RectifyError(
            f"KLOM compares distributions over models, got {tuple(unlearned.shape)} and {tuple(oracle.shape)}; "
            "give (N, n) and (M, n) margins with N and M of at least 2."
        )
    both = torch.cat((unlearned, oracle)).double().clamp(-clip, clip)
    low, high = both.amin(0), both.amax(0)
    width = (high - low).where(high > low, 1.0)  # equal margins all fall into the first bin
    where = ((both - low) / width * bins).long().clamp_max(bins - 1)
    p, q = (
        torch.zeros(bins, both.shape[1], dtype=both.dtype).scatter_add_(0, rows, torch.ones_like(both[: len(rows)]))
        / len(rows)
        for rows in (where[: len(unlearned)], where[len(unlearned) :])
    )
    return (torch.xlogy(p, p) - torch.xlogy(p, q.clamp_min(floor))).sum(0)


def zero_retrain_forgetting(logits: Tensor, random_logits: Tensor) -> float:
    """Return ZRF = 1 - mean Jensen-Shannon divergence, in bits, from a random model (Chundawat et al. 2023).

    1 means that the model answers on these samples as one that has learned nothing. On its own it does not say whether
    this is too much: compare it with that of a retrained model.

    Args:
        logits: (n, K) of the model on the forget set.
        random_logits: (n, K) of a model with random weights on the same samples.
    """
    log_p, log_q = logits.double().log_softmax(1), random_logits.double().log_softmax(1)
    log_middle = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    divergence = sum((a.exp() * (a - log_middle)).nan_to_num(0.0).sum(1) for a in (log_p, log_q)) / 2
    assert isinstance(divergence, Tensor)
    return 1 - float(divergence.mean()) / float(torch.log(torch.tensor(2.0, dtype=torch.float64)))
