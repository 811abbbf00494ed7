"""What the test of RobustnessReport and its two processes share."""

import torch
from foreign import Foreign

from lightning_rectify.attacks import PGD
from lightning_rectify.callbacks import RobustnessReport

EPS = 0.06


def trained():
    """A foreign network that gets some of the digits right."""
    from foreign import IMAGES, LABELS

    torch.manual_seed(5)
    net = Foreign(norm=False)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-2)
    for _ in range(6):
        for rows in torch.randperm(900).split(100):
            torch.nn.functional.cross_entropy(net(IMAGES[rows]), LABELS[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net


def report(start="none", **options):
    """A report that is cheap; without random starts it does not depend on who holds which sample."""
    weak, strong = PGD(EPS, EPS / 4, 4, start=start), PGD(EPS, EPS / 4, 8, start=start)
    options = {"samples": None, "black_box_queries": 0, **options}
    return RobustnessReport(weak, strong, **options)
