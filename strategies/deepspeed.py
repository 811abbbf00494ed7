"""DeepSpeed ZeRO under Lightning with the same numbers as DDP, on CUDA and on CPU."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.plugins import DeepSpeedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn

from ..errors import RectifyError
from .buffers import broadcast_buffers
from .consolidation import KEYS, zero_state_dict
from .sealing import check_seal, seal
from .swapping import present, swap


class DeepSpeed(DeepSpeedStrategy):
    """ZeRO: optimizer state (stage 1), gradients (2) and weights (3) split over the ranks.

    It differs from Lightning's strategy where that one changes the numbers: gradients are divided by
    `accumulate_grad_batches` once, steps are taken where Lightning takes them, `bf16-mixed` computes in bf16 over exact
    fp32 master weights, buffers follow rank 0, and batches may be of any form. Checkpoint folders are sealed, replaced
    as a whole, and only loaded with their seal.

    Args:
        stage: what is split: 1, 2 or 3 as above.
        offload: keep optimizer state, and at stage 3 the weights, in host memory.
        bucket: elements reduced or gathered at once; larger is faster and takes more memory.
        timeout: how long a rank waits for the others before the run ends with an error.
        trust_checkpoints: load checkpoint folders without a seal of this user (they are unpickled and may run code).

    Raises:
        RectifyError: DeepSpeed is not installed, or a value is out of range.
    """

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload: bool = False,
        bucket: int = 50_000_000,
        timeout: timedelta = timedelta(minutes=30),
        trust_checkpoints: bool = False,
    ):
        if find_spec("deepspeed") is None:
            raise RectifyError("strategy DeepSpeed needs DeepSpeed: pip install 'lightning-rectify[deepspeed]'.")
        if stage not in (1, 2, 3):
            raise RectifyError(f"DeepSpeed: stage is {stage}; choose 1, 2 or 3 (plain data parallel is ddp).")
        if bucket < 1:
            raise RectifyError(f"DeepSpeed: bucket is {bucket}; it counts elements and must be 1 or more.")
        super().__init__(
            stage=stage,
            offload_optimizer=offload,
            offload_parameters=offload and stage == 3,
            logging_batch_size_per_gpu=1,  # only scales a printed rate; the default reads it off one kind of loader
            timeout=timeout,
        )
        self.stage = stage
        self.bucket = bucket
        self.trust_checkpoints = trust_checkpoints
        self._buffers_differ = True
        # the optimizer is the user's torch optimizer, also with offload
        self.config["zero_force_ds_cpu_optimizer"] = False  # type: ignore[index]

    @property
    def root_device(self) -> torch.device:
        device = super().root_device
        # deepspeed.initialize wants a device with an index
        return torch.device("cpu", self.local_rank) if device.type == "cpu" else device

    @property
    def precision_plugin(self) -> Precision:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        if plugin is not None:
            if plugin.precision not in ("32-true", "bf16-mixed"):
                raise RectifyError(
                    f"trainer.precision is {plugin.precision}, which rounds DeepSpeed's master weights; "
                    "use 32-true or bf16-mixed."
                )
            plugin = _ExactPrecision(plugin.precision)  # type: ignore[arg-type]
        self._precision_plugin = plugin

    def setup_environment(self) -> None:
        self._choose_device_backend()
        DDPStrategy.setup_environment(self)  # Lightning's own refuses everything but CUDA

    def _choose_device_backend(self) -> None:
        import deepspeed
        from deepspeed.accelerator import get_accelerator, set_accelerator
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        name = get_accelerator().device_name()
        if isinstance(self.accelerator, CPUAccelerator):
            if name != "cpu":
                set_accelerator(CPU_Accelerator())
            # an all-reduce for inference, which would be compiled for a minute at the first start
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        elif name != "cuda":
            raise RectifyError(
                f"trainer.accelerator is {type(self.accelerator).__name__} but DeepSpeed runs on "
                f"{name}; use a CUDA GPU or accelerator: cpu, and unset DS_ACCELERATOR."
            )

    def setup_distributed(self) -> None:
        if self.root_device.type == "cuda":
            super().setup_distributed()
        else:  # the same without the check of CUDA indices
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    def _format_config(self) -> None:
        assert isinstance(self.config, dict) and self.lightning_module is not None
        zero = self.config["zero_optimization"]
        # buffers of this size are allocated whatever the network's: a small network needs a small one
        bucket = min(self.bucket, max(1, sum(p.numel() for p in self.lightning_module.parameters())))
        bucket += bucket % 2  # DeepSpeed divides the gather bucket in two and fails on an odd number
        zero.update(allgather_bucket_size=bucket, reduce_bucket_size=bucket)
        if self.root_device.type == "cpu":
            zero["overlap_comm"] = False
        if self.precision_plugin.precision == "bf16-mixed":
            # DeepSpeed's bf16 mode rounds the master weights at the start; autocast leaves them exact, and an empty
            # list of modules leaves gradients in fp32 on the wire
            self.config["bf16"] = {"enabled": False}
            self.config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        super()._format_config()

    def _initialize_deepspeed_train(self, model: nn.Module) -> None:
        super()._initialize_deepspeed_train(model)
        assert self.lightning_module is not None
        if self.zero_stage_3:
            import deepspeed

            for parameter in _held_outside_layers(self.lightning_module):
                deepspeed.zero.register_external_parameter(self.lightning_module, parameter)

    def _init_optimizers(self) -> Any:
        optimizer, scheduler = super()._init_optimizers()
        if isinstance(optimizer, torch.optim.LBFGS):
            raise RectifyError("LBFGS evaluates the loss several times a step, which DeepSpeed cannot; use ddp.")
        return optimizer, scheduler

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        # Lightning has divided the loss by accumulate_grad_batches already
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    @property
    def handles_gradient_accumulation(self) -> bool:
        """False: DeepSpeed counts micro-batches across epochs, Lightning within one and steps on its last batch."""
        return False

    def block_backward_sync(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # the boundary says it; the engine's own no_sync refuses stages 2 and 3

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        # before the forward, as the engine wants it; the engine is then stepped only where Lightning steps
        boundary = not self.lightning_module.trainer.fit_loop._should_accumulate()
        self.deepspeed_engine.set_gradient_accumulation_boundary(boundary)
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

    def save_checkpoint(self, checkpoint: dict, filepath: Any, storage_options: Any = None) -> None:
        """Write the folder beside its place, seal it, then swap; a crash leaves the last good folder whole."""
        target = Path(self.broadcast(filepath))
        partial = target.with_name(f".{target.name}.partial")
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
        self.barrier()
        keys = [key for key in checkpoint if key not in ("state_dict", "optimizer_states")]
        super().save_checkpoint({**checkpoint, KEYS: keys}, partial, storage_options)
        self.barrier()
        self._on_rank_zero(lambda: _finish(checkpoint, partial, target), f"checkpoint {target} cannot be written")

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        folder = Path(self.broadcast(str(present(Path(checkpoint_path)))))
        if not self.trust_checkpoints:
            self._on_rank_zero(lambda: check_seal(folder), f"checkpoint {folder} cannot be read")
        assert self.lightning_module is not None
        if self.zero_stage_3 and not self.lightning_module.trainer.training:
            # DeepSpeed cannot load its own stage-3 folder into an engine that has no optimizer
            weights, rest = zero_state_dict(folder)
            self._restore_zero_state({"state_dict": weights}, strict=self.lightning_module.strict_loading)
            _copy_buffers(self.lightning_module, weights)
            return rest
        return super().load_checkpoint(folder, weights_only)

    def _on_rank_zero(self, act: Callable[[], None], failure: str) -> None:
        """Act on rank 0 and raise its failure on every rank, so that none waits for the others."""
        verdict = None
        if self.is_global_zero:
            try:
                act()
            except RectifyError as error:
                verdict = str(error)
            except OSError as error:
                verdict = f"{failure} ({error.strerror or error}); free the disk or choose another folder."
        if (verdict := self.broadcast(verdict)) is not None:
            raise RectifyError(verdict)


class _ExactPrecision(DeepSpeedPrecision):
    """Inputs and weights stay fp32; with `bf16-mixed` the engine opens the autocast."""

    def __init__(self, precision: Literal["32-true", "bf16-mixed"]):
        super().__init__(precision)
        self._desired_dtype = torch.float32


def _held_outside_layers(module: nn.Module) -> list[nn.Parameter]:
    """Trained parameters that stage 3 would free before the backward, so that the whole module must answer for them.

    DeepSpeed keeps a parameter by hooks on what its module's forward returns. An objective returns no tensor, and a
    transformer's class token is used by `features`, without the forward of the module that holds it.
    """
    objective = getattr(module, "objective", None)
    inside = set(objective.modules()) if isinstance(objective, nn.Module) else set()
    return [
        parameter
        for holder in module.modules()
        if holder in inside or any(True for _ in holder.children())
        for parameter in holder.parameters(recurse=False)
        if parameter.requires_grad
    ]


def _copy_buffers(module: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name in weights:
                buffer.copy_(weights[name])


def _finish(checkpoint: dict, partial: Path, target: Path) -> None:
    """Say whose run and which step it is, in a file that can be read without unpickling; seal; put in place."""
    states = checkpoint.get("callbacks", {}).values()
    if owner := next((state["fingerprint"] for state in states if "fingerprint" in state), None):
        note = {"fingerprint": owner, "step": checkpoint["global_step"]}
        (partial / "rectify.json").write_text(json.dumps(note))
    seal(partial)
    swap(partial, target)
