"""How the attacked image answers to a change of the weights: the second term of a bilevel gradient."""

import torch
from torch import Tensor


def implicit_term(outer: Tensor, lower: Tensor, image: Tensor, curvature: Tensor, barrier: float) -> Tensor:
    """Return (B,) values of which only the gradient with respect to the weights means something.

    Where δ* minimises -lower + barrier, dδ*/dθ = H⁻¹·∂²lower/∂δ∂θ, so the upper loss gains ⟨H⁻¹·∂outer/∂δ,
    ∂²lower/∂δ∂θ⟩: with v = H⁻¹·∂outer/∂δ held fixed, the gradient of ⟨∂lower/∂δ, v⟩. Costs one double backward. H is
    the barrier's diagonal alone, exact where the lower loss is linear in δ (a ReLU network's logits are, piecewise).

    At the minimum H ≥ (∂lower/∂δ)²/c. An attack of a few steps ends off it, where the barrier alone may be almost flat
    and v many times the ball; H is therefore raised to this bound, which bounds v by the ball's radius and changes
    nothing at the minimum.

    Args:
        outer, lower: (B,) losses computed from `image`; the same tensor saves a backward pass.
        image: (B, C, H, W) leaf that requires a gradient.
        curvature: its diagonal Hessian H, above 0.
        barrier: the barrier's c.
    """
    (slope,) = torch.autograd.grad(lower.sum(), image, create_graph=True)
    if outer is lower:
        answer = slope.detach()
    else:
        (answer,) = torch.autograd.grad(outer.sum(), image, retain_graph=True)
    curvature = torch.maximum(curvature, slope.detach().square() / barrier)
    return (slope * (answer / curvature)).flatten(1).sum(1)
