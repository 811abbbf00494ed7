"""The same 23 rows on one, two and three ranks of uneven size: value and averaged gradient of every loss."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import report, start
from torch import nn

from lightning_rectify.losses import (
    AdaFace,
    Context,
    EmbeddingMemory,
    LibraryLoss,
    MetricLearning,
    ProxyAnchor,
    RecallAtK,
    SmoothAP,
    ThresholdConsistentMargin,
)

rank, world = start()
ENDS = {1: [0, 23], 2: [0, 6, 23], 3: [0, 4, 16, 23]}[world]
own = slice(ENDS[rank], ENDS[rank + 1])
generator = torch.Generator().manual_seed(7)
image = torch.randn(23, 6, dtype=torch.float64, generator=generator)
label = torch.randint(5, (23,), generator=generator)
label[:4] = torch.tensor([0, 1, 2, 3])  # of three ranks the first holds no positive pair
tag = torch.randint(2, (23,), generator=generator)
other = torch.randn(23, 6, dtype=torch.float64, generator=generator)
start_weight = torch.randn(6, 8, dtype=torch.float64, generator=generator)


class Network(nn.Module):
    classes = 8

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(start_weight.clone())

    def forward(self, rows):
        return rows @ self.weight


def averaged(gradient):
    """What DDP does to a gradient."""
    gradient = gradient.clone()
    if world > 1:
        dist.all_reduce(gradient)
    return gradient / world


def case(compute, *modules, steps=1):
    """Value of the last step, and the gradients of the network and of the modules."""
    network = Network()
    for module in modules:
        module.double()
    for _ in range(steps):
        network.zero_grad()
        value = compute(network)
    value.backward()
    trained = [network.weight, *(parameter for module in modules for parameter in module.parameters())]
    return {"value": value.detach(), "gradients": [averaged(p.grad).flatten() for p in trained]}


def unit(network, rows=image, part=own):
    return F.normalize(network(rows[part]), dim=1)


def simple(loss, steps=1):
    return case(lambda network: loss(unit(network), label[own]), loss, steps=steps)


tcm = ThresholdConsistentMargin(positive_weight=2.0, negative_weight=0.7, negative_margin=0.1)
masked = ThresholdConsistentMargin(power=2, negative_margin=0.0, pair_mask=lambda a, b: a[:, None] != b)
objective = MetricLearning(LibraryLoss("MultiSimilarityLoss"), [ThresholdConsistentMargin()])
memory = EmbeddingMemory(ThresholdConsistentMargin(negative_margin=0.1), size=40, dimension=8)
filled = case(lambda network: memory(unit(network), label[own]), memory, steps=3)
adaface = AdaFace(5, 8, momentum=1.0)
triple = MetricLearning(LibraryLoss("SoftTripleLoss", {"num_classes": 5, "embedding_size": 8}))
with torch.no_grad():
    triple.base.loss.fc.copy_(torch.randn(triple.base.loss.fc.shape, generator=generator))
batch = {"image": image[own], "label": label[own]}
everything = slice(None)

report(
    {
        "tcm": simple(tcm),
        "terms": {name: float(value) for name, value in tcm.terms.items()},
        "masked": case(lambda n: masked(unit(n), label[own], tags=tag[own])),
        "references": case(lambda n: tcm(unit(n), label[own], unit(n, other), label[own])),
        # the same references on every rank; their gradient is each rank's share, like that of the rows
        "shared references": case(
            lambda n: tcm(unit(n), label[own], unit(n, other, everything), label, gather_references=False)
        ),
        "memory": filled,
        "remembered": memory.embeddings.flatten(),
        "proxy anchor": simple(ProxyAnchor(6, 8)),
        "smooth ap": simple(SmoothAP(0.1)),
        "recall": simple(RecallAtK(temperature=0.1)),
        "adaface": case(lambda n: adaface(n(image[own]), label[own]), adaface),
        "library": case(lambda n: objective(n, batch, Context()).loss, objective),
        "library proxies": case(lambda n: triple(n, batch, Context()).loss, triple),
    }
)
