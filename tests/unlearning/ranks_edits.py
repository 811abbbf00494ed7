"""Every edit in one process, or in two that share the batches: weights after it."""

import torch
from processes import report, start

from lightning_rectify.backbones import ResNet
from lightning_rectify.unlearning import SSD, FisherNoise, Influence, TaskVector

EDITS = {
    "SSD": lambda: SSD(alpha=1.1, dampening=0.9, per_sample=True),
    "Influence": lambda: Influence(alpha=3.0, samples=100, tolerance=1e-7),
    "FisherNoise": lambda: FisherNoise(1e-7),
    "TaskVector": lambda: TaskVector(2.0, lr=0.1, epochs=2),
}


def make(rows):
    rows = torch.as_tensor(rows)
    image = torch.rand((64, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"image": image[rows], "label": (rows * 7 // 3) % 4, "index": rows}


def results(rank, world):
    forget = [[0, 1, 2, 3], [4, 5, 6]]
    retain = [[10, 11, 12, 13], [14, 15, 16]]
    if world == 2:  # the second batches of rank 1 repeat what rank 0 or the rank itself has had
        forget = [[0, 1], [4, 5, 6]] if rank == 0 else [[2, 3], [0]]
        retain = [[10, 11, 12], [14, 15, 16]] if rank == 0 else [[13], [13, 10]]
    edited = {}
    for name, build in EDITS.items():
        torch.manual_seed(0)
        network = ResNet(4, 1, width=2).double()
        build().apply(network, [make(rows) for rows in forget], [make(rows) for rows in retain])
        edited[name] = torch.cat([p.detach().flatten() for p in network.parameters()])
    return edited


if __name__ == "__main__":
    report(results(*start()))
