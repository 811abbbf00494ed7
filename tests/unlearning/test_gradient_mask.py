"""What gets through a mask of gradients, in both forms a mask takes."""

import pytest
import torch
from torch import nn

from lightning_rectify.unlearning import gradient_mask
from lightning_rectify.unlearning.gradient_mask import mask_gradient

KEEP = torch.tensor([[True, False, True], [False, False, True]])


@pytest.fixture(params=["bits", "choice"])
def form(request, monkeypatch):
    """On a CPU the bits of an entry are kept; elsewhere entries are chosen, which works here too."""
    if request.param == "choice":
        monkeypatch.setattr(gradient_mask, "_bits_to_keep", lambda keep, gradient: ~keep)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_only_what_is_kept_gets_through(form, early, dtype):
    weight = nn.Parameter(torch.randn(2, 3, dtype=dtype))
    mask_gradient(weight, KEEP, before_accumulation=early)
    factor = torch.tensor([[1.0, torch.nan, -2.0], [torch.inf, -5.0, 3.0]], dtype=dtype)
    for passes in (1, 2):
        (weight * factor).sum().backward()
        expected = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 3.0]], dtype=dtype) * passes
        assert torch.equal(weight.grad, expected)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("keep", [KEEP, torch.ones_like(KEEP), torch.zeros_like(KEEP)], ids=["some", "all", "none"])
def test_decay_acts_inside_the_mask(form, early, keep):
    weight = nn.Parameter(torch.randn(2, 3))
    amounts = iter([0.0, 0.5])
    mask_gradient(weight, keep, decay=lambda: next(amounts), before_accumulation=early)
    for _ in range(2):
        weight.sum().backward()
    torch.testing.assert_close(weight.grad, (2 + 0.5 * weight.detach()) * keep)


def test_a_transposed_gradient_is_masked_by_place():
    weight = nn.Parameter(torch.randn(3, 2).T)
    assert not weight.is_contiguous()
    mask_gradient(weight, KEEP)
    (weight @ torch.ones(3)).sum().backward()
    assert torch.equal(weight.grad, KEEP.float())


def test_the_gradient_of_somebody_else_is_not_written():
    """Addition hands the same tensor to both its terms: masking one in place would mask the other."""
    first, second = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2, 3))
    for early in (False, True):
        first.grad = second.grad = None
        handle = mask_gradient(first, KEEP, before_accumulation=early)
        ((first + second) * torch.ones(2, 3)).sum().backward()
        assert torch.equal(first.grad, KEEP.float()) and torch.equal(second.grad, torch.ones(2, 3))
        handle.remove()


def test_the_handle_takes_the_mask_off():
    weight = nn.Parameter(torch.randn(2, 3))
    mask_gradient(weight, KEEP).remove()
    weight.sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 3))
