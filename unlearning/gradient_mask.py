"""Hold a part of a parameter by its gradient, wherever the strategy keeps the two."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def mask_gradient(
    parameter: nn.Parameter,
    keep: Tensor,
    *,
    decay: Callable[[], float] | None = None,
    before_accumulation: bool = False,
) -> RemovableHandle:
    """Zero the gradient where `keep` is false, whatever is in it: NaN times 0 would stay NaN.

    The gradient of what is kept is not touched, unless `decay` is given.

    Args:
        parameter: plain, or a DTensor of FSDP2, of which this rank's part is masked.
        keep: bool, of the parameter's (whole) shape.
        decay: asked at each backward pass for what to add of the weight itself, 0 if nothing; it acts inside the mask.
        before_accumulation: mask what is about to be added to the gradient (DeepSpeed takes the gradient away as soon
            as it is there) and not the gradient in place, which needs no memory.
    """
    local = _Local(keep, decay)
    if before_accumulation:
        return parameter.register_hook(lambda gradient: local.masked(gradient, parameter.detach()))

    def in_place(accumulated: Tensor) -> None:
        gradient = accumulated.grad
        assert gradient is not None
        local.mask_(_local(gradient.detach()), _local(accumulated.detach()))

    if hasattr(parameter, "placements"):
        local.keep = _local_part(keep, parameter)
    return parameter.register_post_accumulate_grad_hook(in_place)


class _Local:
    """The mask of what this rank holds, in the form that is fastest on its device."""

    def __init__(self, keep: Tensor, decay: Callable[[], float] | None):
        self.keep = keep
        self.none = not bool(keep.any())
        self.all = bool(keep.all())
        self.decay = decay
        self._form: Tensor | None = None

    @torch.no_grad()
    def mask_(self, gradient: Tensor, weight: Tensor) -> None:
        if self.none:
            gradient.zero_()
            return
        if amount := self._decay():
            gradient.add_(weight, alpha=amount)
        if self.all:
            return
        form = self._in_form_of(gradient)
        if form.dtype == torch.bool:
            gradient.masked_fill_(form, 0)
        else:
            gradient.view(form.dtype).bitwise_and_(form)

    @torch.no_grad()
    def masked(self, gradient: Tensor, weight: Tensor) -> Tensor:
        if self.none:
            return torch.zeros_like(gradient)
        if amount := self._decay():
            gradient = gradient.add(weight, alpha=amount)
        if self.all:
            return gradient
        form = self._in_form_of(gradient)
        if form.dtype == torch.bool:
            return gradient.masked_fill(form, 0)
        return gradient.view(form.dtype).bitwise_and(form).view(gradient.dtype)

    def _decay(self) -> float:
        return self.decay() if self.decay is not None else 0.0

    def _in_form_of(self, gradient: Tensor) -> Tensor:
        """On a CPU the bits to keep of each entry (30 times as fast there as a choice), else what to zero, in bytes."""
        if self._form is None:
            keep = torch.empty_like(gradient, dtype=torch.bool).copy_(self.keep)
            on_host = gradient.device.type == "cpu"
            self._form = _bits_to_keep(keep, gradient) if on_host else ~keep
            self.keep = torch.empty(0)
        return self._form


def _bits_to_keep(keep: Tensor, gradient: Tensor) -> Tensor:
    return keep.to(_INTEGER[gradient.element_size()]).neg_()  # -1 has all bits set


def _local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that lies here, else the tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _local_part(whole: Tensor, like: nn.Parameter) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like.data, DTensor)
    mesh = like.data.device_mesh
    # every rank has the whole mask: nothing is sent
    return distribute_tensor(whole.to(mesh.device_type), mesh, like.data.placements, src_data_rank=None).to_local()
