"""Membership attacks of the unlearning literature: which share of the forget set passes for never seen?"""

import torch
from torch import Tensor

from ..errors import RectifyError
from ..randomness import keyed_generator
from .member_scores import membership_scores
from .outputs import Split

THRESHOLDED = ("correctness", "entropy", "modified_entropy", "loss")


def best_threshold(member: Tensor, nonmember: Tensor) -> float:
    """Return the score t for which `score >= t means member` has the largest (TPR + TNR) / 2, in O(n log n).

    Candidates are the scores themselves; of equally good ones the smallest wins, so scores that tell nothing apart call
    everything a member.
    """
    member, nonmember = member.double().sort().values, nonmember.double().sort().values
    candidates = torch.cat((member, nonmember)).unique()
    kept = len(member) - torch.searchsorted(member, candidates)
    passed = len(nonmember) - torch.searchsorted(nonmember, candidates)
    # TPR - FPR in whole numbers: equally good thresholds must compare equal
    return float(candidates[(kept * len(nonmember) - passed * len(member)).argmax()])


def membership_decisions(
    forget: Split, retain: Split, test: Split, seed: int = 0, limit: int = 2000
) -> dict[str, Tensor]:
    """Return by attack (n_forget,) bool: the forget sample passes for one the model has never seen.

    Each attack learns to tell `retain` (members) from `test` (never seen) and then judges the forget set.
    `confidence` is the published one: an RBF support-vector machine with C = 3 on the label's soft-max probability. It
    is fitted on equally many samples of both sides, drawn at random, where the published code takes the first |test|
    retain samples. The other four are thresholds fitted on all samples with both sides weighing the same.

    Args:
        forget, retain, test: `{"logits": (n, K), "label": (n,)}` of one model, gathered over ranks.
        seed: of the draw.
        limit: most samples of a side that the support-vector machine is fitted on.
    """
    scores = [membership_scores(split["logits"].cpu(), split["label"].cpu()) for split in (forget, retain, test)]
    if any(not len(score["loss"]) for score in scores):
        raise RectifyError("A membership attack needs forget, retain and test samples; one of the three is empty.")
    if not all(bool(score["loss"].isfinite().all()) for score in scores):
        raise RectifyError(
            "A membership attack met logits that are not finite: the model has diverged; lower the learning rate."
        )
    targets, members, others = scores
    confidence = [score["confidence"] for score in (targets, members, others)]
    passes = {"confidence": _support_vectors(confidence[0], confidence[1], confidence[2], seed, limit)}
    for name in THRESHOLDED:
        passes[name] = targets[name] < best_threshold(members[name], others[name])
    return passes


def membership_attacks(forget: Split, retain: Split, test: Split, seed: int = 0, limit: int = 2000) -> dict[str, float]:
    """Return the per cent of the forget set that passes for never seen, by attack: `MIA_confidence`, `MIA_loss`, …

    Closer to a retrained model is better; neither higher nor lower is. Arguments as for `membership_decisions`.
    """
    return decision_shares(membership_decisions(forget, retain, test, seed, limit))


def decision_shares(decisions: dict[str, Tensor]) -> dict[str, float]:
    """Turn the decisions into `MIA_<attack>` in per cent."""
    return {f"MIA_{name}": 100 * float(passes.double().mean()) for name, passes in decisions.items()}


def _support_vectors(forget: Tensor, member: Tensor, other: Tensor, seed: int, limit: int) -> Tensor:
    from sklearn.svm import SVC

    count = min(len(member), len(other), limit)
    draw = keyed_generator(seed, "membership")
    sides = [side[torch.randperm(len(side), generator=draw)[:count]] for side in (member, other)]
    machine = SVC(C=3, kernel="rbf", gamma="auto")
    machine.fit(torch.cat(sides)[:, None].numpy(), [1] * count + [0] * count)
    return torch.from_numpy(machine.predict(forget[:, None].numpy()) == 0)
