"""The grid pointing game of a study: grids of images the model is sure of, explained cell by cell."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from ..attribution.aggregation import AggregateMaps, aggregate_maps
from ..attribution.localisation import grid_pointing_game
from ..attribution.methods import METHODS
from ..callbacks.panel import Panel
from ..errors import RectifyError
from ..frozen import frozen_eval
from .explained_images import chunks

GRIDS = 25
SURE = 0.9


def play_pointing_game(
    model: nn.Module, panel: Panel, methods: Sequence[str], layer: str, device: Any
) -> tuple[dict[str, float], dict[str, tuple[AggregateMaps, bool]]]:
    """Return the mean scores by method, and by title its mean maps and whether they are signed.

    Nothing is returned, and why is said, for a model of one image size or one that is sure of too few images.
    """
    with frozen_eval(model):
        p = torch.cat([model(x).softmax(1).cpu() for _, x, _ in chunks(panel, device)])
    sure = p.gather(1, panel.labels[:, None]).squeeze(1) >= SURE
    grids = grids_of_four(panel.labels, sure)
    if not grids:
        rank_zero_info(
            f"explain: no grid pointing game, {int(sure.sum())} of {len(panel)} images have their label at "
            f"{SURE:g} or more, too few for a grid of four classes."
        )
    if not grids or not _takes_grids(model, panel, device):
        return {}, {}
    scores: dict[str, float] = {}
    bins: dict[str, tuple[AggregateMaps, bool]] = {}
    for name in methods:
        method = METHODS[name]
        found = []
        for four in grids[:GRIDS]:
            explained: Callable = lambda m, x, y, method=method: method.explain(m, x, y, layer).float()  # noqa: E731
            found.append(
                grid_pointing_game(model, panel.images[four].to(device), panel.labels[four].to(device), explained)
            )
        score = torch.cat([result.score for result in found]).cpu()
        # maps are turned so that the explained cell stands in the upper left corner
        turned = torch.cat([_first_cell(result.maps, result.place) for result in found]).cpu()
        scores[name] = float(score.mean())
        bins[method.title] = (aggregate_maps(turned, score), method.signed)
    return scores, bins


def grids_of_four(labels: Tensor, sure: Tensor) -> list[Tensor]:
    """Fours of different classes among the sure images: the first ones of the classes, then the second ones, …"""
    count: dict[int, int] = {}
    ordered = []
    for place, label in enumerate(labels.tolist()):
        if sure[place]:
            count[label] = count.get(label, 0) + 1
            ordered.append((count[label], label, place))
    fours = [sorted(ordered)[start : start + 4] for start in range(0, len(ordered) - 3, 4)]
    return [torch.tensor([place for *_, place in four]) for four in fours if len({label for _, label, _ in four}) == 4]


def _takes_grids(model: nn.Module, panel: Panel, device: Any) -> bool:
    """Whether images twice as large pass; a head on the whole last map or position embeddings may not take them."""
    try:
        with frozen_eval(model):
            model(panel.images[:1].repeat(1, 1, 2, 2).to(device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError, RectifyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        rank_zero_info(f"explain: no grid pointing game, the model takes images of one size only: {reason}")
        return False
    return True


def _first_cell(maps: Tensor, place: Tensor) -> Tensor:
    height, width = maps.shape[1] // 2, maps.shape[2] // 2
    moved = [
        torch.roll(m, (-(int(k) // 2) * height, -(int(k) % 2) * width), (0, 1))
        for m, k in zip(maps, place, strict=True)
    ]
    return torch.stack(moved)
