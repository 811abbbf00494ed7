"""The queries that went most wrong, with what they found instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..metrics.retrieval import neighbours
from ..metrics.retrieval_evaluation import RetrievalEvaluation
from .figures import new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKED_AT = 4096


@dataclass
class WorstQueries:
    """Rows of an evaluation, worst first.

    Attributes:
        query: (n,) rows of the queries.
        found: (n, k) rows they found, nearest first.
        cosine: (n, k). relevant: (n, k) bool.
    """

    query: Tensor
    found: Tensor
    cosine: Tensor
    relevant: Tensor


def choose_worst_queries(evaluation: RetrievalEvaluation, count: int, k: int = 5) -> WorstQueries:
    """Return at most one query a class: those with the fewest of their class among the first k, the surest first.

    Looks at 4,096 queries, evenly spread, if there are more; queries alone in their class are left out.
    """
    labels = evaluation.labels
    asks = torch.ones_like(labels, dtype=torch.bool) if evaluation.query is None else evaluation.query
    askers = asks.nonzero().squeeze(1)
    picked = torch.linspace(0, len(askers) - 1, min(len(askers), LOOKED_AT), device=labels.device).round().long()
    rows = askers[picked]
    if evaluation.query is None:
        result = neighbours(evaluation.embeddings, labels, k=k, rows=rows)
        found = result.index
    else:
        shelf = (~asks).nonzero().squeeze(1)
        result = neighbours(
            evaluation.embeddings[asks], labels[asks], evaluation.embeddings[shelf], labels[shelf], k, picked
        )
        found = shelf[result.index]
    hits = result.relevant.sum(1).double()
    badness = -hits + result.cosine[:, 0].double() / 2  # a cosine never outweighs a hit
    badness[result.count == 0] = -torch.inf
    chosen: dict[int, int] = {}
    for place in badness.argsort(descending=True).tolist():
        if len(chosen) == count or badness[place] == -torch.inf:
            break
        chosen.setdefault(int(labels[rows[place]]), place)
    places = torch.tensor(list(chosen.values()), dtype=torch.int64, device=labels.device)
    return WorstQueries(rows[places], found[places], result.cosine[places], result.relevant[places])


def worst_queries_figure(worst: WorstQueries, images: np.ndarray, names: list[list[str]], title: str) -> Figure:
    """Return a row a query: the query, then what it found, framed by right and wrong, with the cosines.

    Args:
        images: (n, 1 + k, C, H, W) uint8, the query first.
        names: class names of the same places.
    """
    rows, columns = images.shape[:2]
    figure = new_figure(1.05 * columns + 0.3, 1.2 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    top = 1 - 0.6 / figure.get_figheight()
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=top, hspace=0.32, wspace=0.08)
    figure.text(0.02, 1 - 0.2 / figure.get_figheight(), title, fontsize=10.5, va="center")
    for row in range(rows):
        for column in range(columns):
            axes = grid[row][column]
            picture = images[row, column].transpose(1, 2, 0)
            axes.imshow(picture if picture.shape[2] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            right = column == 0 or bool(worst.relevant[row, column - 1])
            colour = "#222222" if column == 0 else "#2a7f4f" if right else "#c8553d"
            axes.spines[:].set(color=colour, linewidth=2.2)
            text = "query" if column == 0 else f"{float(worst.cosine[row, column - 1]):.3f}"
            axes.set_title(f"{short_name(names[row][column], 10)}  {text}", fontsize=6.5, pad=2.5, color=colour)
    return figure
