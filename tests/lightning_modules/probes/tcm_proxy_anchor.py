"""TCM + ProxyAnchor: trained proxies of its own, and pairs across ranks with gradient; the head is the embedding."""

import torch
import torch.nn.functional as F
from torch import nn

from lightning_rectify.collectives import gather_rows, gather_with_gradient
from lightning_rectify.losses import Objective, Step


class TCMProxyAnchor(Objective):
    own_parameters = True

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(10, 10, generator=torch.Generator().manual_seed(0)))

    def forward(self, backbone, batch, context):
        rows = gather_with_gradient(F.normalize(backbone(batch["image"])))
        label = torch.cat(gather_rows(batch["label"]))
        # every rank computes the loss of the whole batch; gather sums the ranks' gradients and DDP averages them
        cosine = rows @ F.normalize(self.proxies).T
        same = F.one_hot(label, 10).bool()
        push = (torch.exp(32 * (cosine + 0.1)) * ~same).sum(0).log1p().sum() / 10
        pull = (torch.exp(-32 * (cosine - 0.1)) * same).sum(0).log1p().sum() / same.any(0).sum()
        pairs, equal = rows @ rows.T, label[:, None] == label
        margin = F.relu(0.9 - pairs[equal]).mean() + F.relu(pairs[~equal] - 0.5).mean()
        return Step(push + pull + margin, terms={"margin": margin.detach()})
