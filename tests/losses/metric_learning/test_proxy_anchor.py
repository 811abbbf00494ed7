"""Proxy-Anchor against pytorch-metric-learning 2.9."""

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ProxyAnchorLoss

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import ProxyAnchor


@pytest.mark.parametrize("scale", [32.0, 200.0])  # 200: exp() alone would overflow
def test_equals_pytorch_metric_learning(scale):
    labels = torch.tensor([0, 0, 2, 2, 3, 5, 5, 5])  # classes 1, 4 and 6 are absent
    ours = ProxyAnchor(7, 5, margin=0.2, scale=scale).double()
    theirs = ProxyAnchorLoss(7, 5, margin=0.2, alpha=scale).double()
    theirs.proxies.data.copy_(ours.proxies.detach())
    raw = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    values = ours(F.normalize(raw, dim=1), labels), theirs(F.normalize(raw, dim=1), labels)
    torch.testing.assert_close(*values, rtol=1e-11, atol=0)
    mine = torch.autograd.grad(values[0], (raw, ours.stored))
    library = torch.autograd.grad(values[1], (raw, theirs.proxies))
    for one, two in zip(mine, library, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-13)
    assert int(ours.terms["classes_in_batch"]) == 4


def test_proxies_move_faster_under_adam_by_the_scale():
    labels, unit = torch.tensor([0, 1, 1]), F.normalize(torch.randn(3, 4), dim=1)
    moved = []
    for scale in (1.0, 50.0):
        loss = ProxyAnchor(2, 4, learning_rate_scale=scale)
        before = loss.proxies.detach().clone()
        optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
        loss(unit, labels).backward()
        optimizer.step()
        moved.append((loss.proxies.detach() - before, before))
    torch.testing.assert_close(moved[0][1], moved[1][1])
    torch.testing.assert_close(moved[1][0], 50 * moved[0][0], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ProxyAnchor(1, 4), "classes is 1"),
        (lambda: ProxyAnchor(3, 0), "dimension is 0"),
        (lambda: ProxyAnchor(3, 4, scale=0), "scale is 0"),
        (lambda: ProxyAnchor(3, 4, learning_rate_scale=0), "learning_rate_scale is 0"),
        (lambda: ProxyAnchor(3)(torch.eye(3), torch.arange(3)), "set dimension"),
        (lambda: ProxyAnchor(3, 4)(torch.eye(4), torch.arange(4)), "a label is 3"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(RectifyError, match=said):
        make()
