"""Pair metrics and retrieval on one or two ranks of uneven size."""

import torch
import torch.nn.functional as F
from processes import report, start

from lightning_rectify.metrics import OperatingPointInconsistency, RetrievalScores

rank, world = start()
generator = torch.Generator().manual_seed(5)
label = torch.randint(25, (301,), generator=generator)
centre = torch.randn(25, 8, generator=generator)
rows = F.normalize(centre[label] + 0.9 * torch.randn(301, 8, generator=generator), dim=1)
query = torch.arange(301) < 100
own = slice(None) if world == 1 else [slice(0, 90), slice(90, 301)][rank]


def result(metric, *roles):
    for piece in torch.arange(301)[own].split(64):
        metric.update(rows[piece], label[piece], *(role[piece] for role in roles))
    return {name: float(value) for name, value in metric.compute().items()}


opis = OperatingPointInconsistency(min_edges=4000)  # counts twice
sides = RetrievalScores()
gallery = torch.arange(301)[own]
for role, chosen in (("query", query), ("gallery", ~query & torch.isin(label, label[~query]))):
    piece = gallery[chosen[own]]
    sides.update(rows[piece], label[piece], role)
report(
    {
        "opis": result(opis),
        "positive": opis.histogram.positive.sum(0).nonzero().flatten(),
        "retrieval": result(RetrievalScores()),
        "sides": {name: float(value) for name, value in sides.compute().items()},
    }
)
