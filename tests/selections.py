"""Scores and what must be selected of them, for one process and for several."""

import torch
from foreign import IMAGES, LABELS
from torch import nn

from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import saliency_masks, saliency_scores
from lightning_rectify.unlearning.radix_selection import sharded_selection

SAMPLES = 37


def brute_force(scores, kept):
    """The kept largest of all scores together, the first of equal ones."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[torch.sort(flat, descending=True, stable=True).indices[:kept]] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def draw(kind):
    generator = torch.Generator().manual_seed(3)
    shapes = {"a.weight": (5, 3, 3), "a.bias": (5,), "b.scalar": (), "b.weight": (7, 11)}
    normal = {name: torch.randn(shape, generator=generator).abs() for name, shape in shapes.items()}
    forms = {
        "random": lambda x: x,
        "all tie": torch.ones_like,
        "all zero": torch.zeros_like,
        "few values": lambda x: (2 * x).round(),
        "mostly zero": lambda x: x * (x > 1),
        "subnormal": lambda x: x * 1e-42,
        "near": lambda x: 1 + x * 1e-7,  # differ in the lower bits only
        "wide": lambda x: torch.exp(20 * (x - 1)),
    }
    return {name: forms[kind](value) for name, value in normal.items()}


FORMS = ("random", "all tie", "all zero", "few values", "mostly zero", "subnormal", "near", "wide")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )


def batches(rank, world, size):
    """As DistributedSampler gives them: the last sample of the shorter rank is one that came before."""
    order = list(range(SAMPLES)) + list(range(-SAMPLES % world))
    own = torch.tensor(order[rank::world])
    for rows in own.split(size):
        yield {"image": IMAGES[rows], "label": LABELS[rows], "index": rows}


def masks_and_scores(rank, world):
    """Digest of a mask and the scores as shares of the largest, by reduction."""
    results = {}
    for reduction in ("sum", "mean"):
        scores = saliency_scores(network(), batches(rank, world, 5), reduction=reduction)
        (mask,) = saliency_masks(scores, [0.3])
        flat = torch.cat([score.flatten() for score in scores.values()])
        results[reduction] = mask.digest, flat / flat.max()
    return results


def shards_agree(rank, world):
    results = {}
    for kind in FORMS:
        scores = draw(kind)
        total = sum(score.numel() for score in scores.values())
        for kept in (1, total // 3, total // 2, total - 1, total):
            whole = brute_force(scores, kept)
            # uneven, in some tensors empty on one rank
            parts = {name: score.flatten().tensor_split(world)[rank] for name, score in scores.items()}
            chosen = sharded_selection(list(parts.values()), kept)
            expected = [whole[name].flatten().tensor_split(world)[rank] for name in scores]
            results[f"{kind} {kept}"] = all(torch.equal(a, b) for a, b in zip(chosen, expected, strict=True))
    return results


def refused_without_index(rank, world):
    try:
        saliency_scores(network(), [(batch["image"], batch["label"]) for batch in batches(rank, world, 5)])
    except RectifyError as error:
        return str(error)
    return ""
