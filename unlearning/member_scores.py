"""What a model's answer says about whether it was trained on a sample."""

import torch
from torch import Tensor


def log_complement(logits: Tensor) -> Tensor:
    """(n, K) log(1 - p), exact where a soft-max saturates: the largest class is left out of the sum, not subtracted."""
    log_p = logits.log_softmax(1)
    top = logits.argmax(1, keepdim=True)
    rest = logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True) - logits.logsumexp(1, keepdim=True)
    return torch.log1p(-log_p.exp().clamp_max(0.75)).scatter(1, top, rest)


def modified_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Return (n,) -(1 - p_y)·log p_y - Σ_{i≠y} p_i·log(1 - p_i), in nats (Song and Mittal 2021, eq. 8).

    It is 0 for a certain right answer and grows without bound for a certain wrong one, which the entropy does not.
    """
    logits = logits.double()
    log_p, log_q = logits.log_softmax(1), log_complement(logits)
    per_class = torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_q)  # an expelled class has p = 0
    own = label[:, None]
    first = log_q.exp().gather(1, own) * log_p.gather(1, own)
    return -(first.squeeze(1) + per_class.scatter(1, own, 0.0).sum(1))


def logit_margin(logits: Tensor, label: Tensor) -> Tensor:
    """Return (n,) log(p_y / (1 - p_y)) = z_y - logsumexp of the others, float64: the statistic of LiRA and KLOM."""
    logits, own = logits.double(), label[:, None]
    return logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -torch.inf).logsumexp(1)


def membership_scores(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Return (n,) float64 scores by name; the larger, the more a sample looks like one of the training set.

    `confidence` is the soft-max of the label, `correctness` 1 or 0, `entropy` and `modified_entropy` are negative
    entropies, `loss` is the negative cross-entropy: the same order as `confidence`, but never saturated.
    """
    logits = logits.double()
    log_p = logits.log_softmax(1)
    own = log_p.gather(1, label[:, None]).squeeze(1)
    p = log_p.exp()
    return {
        "confidence": own.exp(),
        "correctness": (logits.argmax(1) == label).double(),
        "entropy": torch.where(p > 0, p * log_p, 0.0).sum(1),
        "modified_entropy": -modified_entropy(logits, label),
        "loss": own,
    }
