"""Sums of margin violations over all pairs of two sets of rows, and their gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class MarginViolations(torch.autograd.Function):
    """(rows (n, D), columns (m, D), positive, negative (n, m), m⁺, m⁻, power) -> sums (2,), active (2,).

    The gradient with respect to a cosine is constant on the active pairs (power 1), so two masks are kept for the
    backward where autograd would keep, fill and add half a dozen matrices. If both sets are one tensor, the two
    products of the backward become one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        positive: Tensor,
        negative: Tensor,
        positive_margin: float,
        negative_margin: float,
        power: int,
    ) -> tuple[Tensor, Tensor]:
        cosine = rows @ columns.T
        low = (cosine <= positive_margin).logical_and_(positive)
        high = (cosine >= negative_margin).logical_and_(negative)
        # by product and not by selection: a NaN must reach the loss, where it is noticed
        pull = (positive_margin - cosine).clamp_(min=0).mul_(positive)
        push = cosine.sub_(negative_margin).clamp_(min=0).mul_(negative)
        ctx.power, ctx.same = power, rows is columns
        if power == 1:
            ctx.save_for_backward(rows, columns, low, high)
            sums = torch.stack((pull.sum(), push.sum()))
        else:
            ctx.save_for_backward(rows, columns, pull, push)
            sums = torch.stack((pull.square().sum(), push.square().sum()))
        active = torch.stack((low.count_nonzero(), high.count_nonzero()))
        ctx.mark_non_differentiable(active)
        return sums, active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, low, high = ctx.saved_tensors
        if ctx.power == 1:
            of_cosine = torch.where(high, gradient[1], torch.where(low, -gradient[0], torch.zeros_like(gradient[0])))
        else:
            of_cosine = 2 * (high * gradient[1] - low * gradient[0])
        of_rows = of_columns = None
        if ctx.same:
            of_rows = (of_cosine + of_cosine.T) @ rows
        else:
            of_rows = of_cosine @ columns if ctx.needs_input_grad[0] else None
            of_columns = of_cosine.T @ rows if ctx.needs_input_grad[1] else None
        return of_rows, of_columns, None, None, None, None, None
