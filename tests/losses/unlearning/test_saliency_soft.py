"""SalUn-soft's proximal step against a sort, and the order statistic behind it against `kthvalue`."""

import numpy as np
import pytest
import torch

from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import Context, SaliencySoft, kth_smallest


@pytest.mark.parametrize("kind", ["random", "ties", "zeros", "tiny", "huge"])
def test_order_statistic_equals_kthvalue(kind):
    values = torch.randn(3001).abs()
    if kind == "ties":
        values = (values * 3).round()
    elif kind == "zeros":
        values = torch.zeros(3001)
    elif kind == "tiny":
        values = values * 1e-42  # subnormal
    elif kind == "huge":
        values = (values * 1e38).clamp(max=3e38)
    pieces = [piece.clone().view(-1, 1) for piece in values.split([1000, 1, 2000])]
    for k in (1, 2, 1500, 3000, 3001):
        assert torch.equal(kth_smallest(pieces, k), values.kthvalue(k).values), k


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.6), (0.5, 0.3), (1.0, 0.0)])
def test_displacements_are_thresholded_as_by_a_sort(progress, share, net, forget):
    net = net.float()
    net.linear.bias.requires_grad_(False)  # a frozen weight neither counts nor moves
    objective = SaliencySoft(0.6)
    objective.setup(net)
    start = net.linear.weight.detach().clone()
    with torch.no_grad():
        net.linear.weight += torch.randn(start.shape)
        net.linear.bias += 1
    moved, bias = net.linear.weight.detach().clone(), net.linear.bias.detach().clone()
    batch = {"forget": {**forget, "image": forget["image"].float()}}
    objective(net, batch, Context(progress=progress))
    objective.after_step(net)
    delta = (moved - start).numpy()
    count = int(share * delta.size)
    tau = np.sort(np.abs(delta).ravel())[count - 1] if count else 0.0
    expected = np.sign(delta) * np.maximum(np.abs(delta) - tau, 0)
    found = net.linear.weight.detach()
    np.testing.assert_allclose((found - start).numpy(), expected, atol=1e-6)
    assert int((found == start).sum()) == count  # bit for bit
    assert torch.equal(net.linear.bias, bias)


def test_the_anchor_is_the_start_of_the_run_and_survives_a_restart():
    objective, resumed = SaliencySoft(), SaliencySoft()
    network = ResNet(4, 1, width=4)
    objective.setup(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 1
    resumed.setup(network)  # as on a resume: before the checkpoint is read
    resumed.load_state_dict(objective.state_dict())
    for a, b in zip(objective.start.parameters(), resumed.start.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ratio_outside_is_refused():
    with pytest.raises(RectifyError, match=r"ratio is 1\.5; give a share"):
        SaliencySoft(1.5)
