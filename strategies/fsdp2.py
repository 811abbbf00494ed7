"""FSDP2: every weight, gradient and optimizer state split over the ranks, block by block."""

from collections.abc import Iterable
from datetime import timedelta
from types import MethodType
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from .atomic_checkpoint import read_file
from .buffers import broadcast_buffers


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallel over all processes.

    The LightningModule calls `shard` in `configure_model`. Checkpoints are one plain file with the full weights and
    optimizer state, so that a run may go on under another strategy and nothing is ever unpickled. Buffers follow
    rank 0, as under DDP.

    Args:
        timeout: how long a rank waits for the others before the run ends with an error.
    """

    def __init__(self, timeout: timedelta = timedelta(minutes=30)):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)
        self._buffers_differ = True

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = self.broadcast(checkpoint_path)
        read_file(path, mmap=True)  # opens it only, for a sentence about a torn file instead of Lightning's traceback
        return super().load_checkpoint(path, weights_only=True)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self._follow_rank_zero()
        self._buffers_differ = True
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        self._follow_rank_zero()
        return super().validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        self._follow_rank_zero()
        return super().test_step(*args, **kwargs)

    def _follow_rank_zero(self) -> None:
        if self._buffers_differ and self.lightning_module is not None:
            broadcast_buffers(self.lightning_module)
            self._buffers_differ = False


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a backbone, or an objective with parameters of its own, in place over the ranks of a mesh.

    Residual and transformer blocks are groups of their own, so one block's weights are gathered while another computes.
    What stands outside the blocks (stem, classifier, final norm) is sharded layer by layer and not with the root:
    then `features` and `head` can be called apart, as embedding losses and hidden-layer mixing do.

    Args:
        module: a network; its frozen copies inside an objective are sharded the same way, so that both can be averaged.
        mesh: `LightningModule.device_mesh`, or a one-dimensional mesh.
    """
    if not any(True for _ in module.parameters()):
        return module
    dimensions = mesh.mesh_dim_names or ()
    data = mesh["data_parallel"] if "data_parallel" in dimensions else mesh
    for group in _groups(module):
        _shard_once(group, data)
    for inner in reversed(list(module.modules())):  # the innermost first: each takes what its layers left over
        if _has_features(inner):
            _shard_once(inner, data)
            if "features" not in vars(inner):  # registered before: configure_model runs again for a test
                register_fsdp_forward_method(inner, "features")
    _shard_once(module, data)
    return module


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the innermost repeated blocks: members of a Sequential or ModuleList with two or more layers inside."""
    members = [
        child
        for parent in module.modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList)
        for child in parent.children()
        if _layers(child) > 1
    ]
    chosen = set(members)
    return [member for member in members if not any(inner in chosen for inner in _inside(member))]


def _shard_once(module: nn.Module, mesh: DeviceMesh) -> None:
    if not isinstance(module, FSDPModule):
        fully_shard(module, mesh=mesh)


def _has_features(module: nn.Module) -> bool:
    return isinstance(getattr(module, "features", None), MethodType)  # VGG has a layer of that name


def _groups(module: nn.Module) -> Iterable[nn.Module]:
    chosen = set(blocks(module))
    above = {outer for outer in module.modules() if any(inner in chosen for inner in _inside(outer))}

    def walk(parent: nn.Module) -> Iterable[nn.Module]:
        for child in parent.children():
            if child in above or (child not in chosen and _has_features(child)):
                yield from walk(child)
            elif any(True for _ in child.parameters()):
                yield child

    return list(walk(module))


def _inside(module: nn.Module) -> Iterable[nn.Module]:
    return (inner for inner in module.modules() if inner is not module)


def _layers(module: nn.Module) -> int:
    """How many modules inside hold parameters of their own."""
    return sum(any(True for _ in inner.parameters(recurse=False)) for inner in _inside(module))
