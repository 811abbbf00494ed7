"""A full-batch minimiser for the small, mostly convex problems of this room."""

from collections.abc import Callable

import torch
from torch import Tensor


def minimise(parameters: list[Tensor], loss: Callable[[], Tensor], steps: int = 300) -> float:
    """Minimise with L-BFGS and strong Wolfe steps, in place; return the value reached."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        return float(loss())
