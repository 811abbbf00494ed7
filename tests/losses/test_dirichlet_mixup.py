"""d-Mixup against the definition in float64 and scipy's Dirichlet marginals."""

import pytest
import torch
from scipy import stats

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import DirichletMixup, dirichlet_mixup

pytestmark = pytest.mark.filterwarnings("ignore:DirichletMixup")


def draw(d: int, alpha: float, n: int, per: str = "sample"):
    return DirichletMixup(d, alpha, per).draw(torch.zeros(n, 1), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("d, alpha", [(2, 1.0), (3, 0.5), (5, 2.0)])
def test_weights_are_dirichlet(d, alpha):
    weights = draw(d, alpha, 4000).image_weights.double()
    assert torch.allclose(weights.sum(1), torch.ones(4000).double(), atol=1e-6)
    for column in weights.T:
        assert stats.kstest(column.numpy(), stats.beta(alpha, (d - 1) * alpha).cdf).pvalue > 1e-3
    covariance = torch.cov(weights.T)[0, 1].item()
    assert covariance == pytest.approx(-1 / (d**2 * (d * alpha + 1)), rel=0.15)


def test_mixture_and_partners():
    plan = draw(4, 1.0, 16)
    assert torch.equal(plan.partners[:, 0], torch.arange(16))
    for column in plan.partners.T:
        assert torch.equal(column.sort().values, torch.arange(16))
    x = torch.randn(16, 3, 5, dtype=torch.float64)
    expected = torch.stack(
        [sum(plan.image_weights[i, d].double() * x[plan.partners[i, d]] for d in range(4)) for i in range(16)]
    )
    assert torch.allclose(plan.apply(x), expected)
    assert draw(3, 1.0, 8, "batch").image_weights.unique(dim=0).shape[0] == 1


@pytest.mark.parametrize("arguments", [{"d": 1}, {"alpha": 0.0}, {"per": "pair"}, {"stop": -1.0}])
def test_bad_arguments_name_themselves(arguments):
    with pytest.raises(RectifyError, match=next(iter(arguments))):
        DirichletMixup(**arguments)


def test_more_than_two_points_warn():
    with pytest.warns(UserWarning, match="under-confident"):
        DirichletMixup(3)


def test_functional_twin():
    image, label = torch.rand(8, 3, 6, 6), torch.arange(8)
    mixed, target = dirichlet_mixup(image, label, 3, 0.7, generator=torch.Generator().manual_seed(2))
    weights, partners = target.weights.double(), target.labels  # the labels are the positions
    assert torch.equal(partners[:, 0], label)
    assert weights.shape == partners.shape == (8, 3)
    assert torch.allclose(weights.sum(1), torch.ones(8).double(), atol=1e-6)
    by_hand = torch.einsum("nd,ndchw->nchw", weights, image.double()[partners])
    assert torch.allclose(mixed.double(), by_hand, atol=1e-6)
    logits = torch.randn(8, 8)
    by_hand = -(weights * logits.double().log_softmax(1).gather(1, partners)).sum(1).mean()
    assert target.loss(logits).item() == pytest.approx(by_hand.item(), rel=1e-6)
    with pytest.raises(RectifyError, match="d is 1"):
        dirichlet_mixup(image, label, 1)
