"""Every weight whole on every rank, one parameter at a time, in each copy a strategy keeps."""

from collections.abc import Iterator

from torch import Tensor, nn


def whole_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, whole tensor) of each parameter; every rank must run through all of it.

    DeepSpeed keeps a working copy, which the forward reads, and an fp32 master copy, which the optimizer moves: both
    are yielded, under the same name.
    """
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "ds_id"):  # ZeRO-3
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.detach().clone()
        elif hasattr(parameter.data, "full_tensor"):  # FSDP2
            yield name, parameter.data.full_tensor()
        else:
            yield name, parameter.detach()
        if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            from deepspeed.utils import safe_get_full_fp32_param

            master = safe_get_full_fp32_param(parameter)
            if master is not None:
                yield name, master.view(getattr(parameter, "ds_shape", parameter.shape))
