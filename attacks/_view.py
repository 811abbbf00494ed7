"""What an attack sees of a network: gradients with respect to its input, and the evidence that falls off."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ._folding import folded
from ._undisturbed import replaceable
from .evidence import Evidence
from .gains import Gain

Network = Callable[[Tensor], Tensor]


@contextmanager
def network(backbone: nn.Module, bf16: bool, channels_last: bool) -> Iterator[Network]:
    """Yield the forward pass of the attack.

    Batch norms are folded into the convolutions before them, and under bf16 autocast the weights of convolutions and
    linear layers are cast once an attack; autocast alone would cast frozen weights in every pass. Where weights are
    split or the backbone is compiled, it runs as it is.
    """
    whole = replaceable(backbone)
    with ExitStack() as stack:
        ready: dict[str, Tensor] = stack.enter_context(folded(backbone)) if whole else {}
        if bf16 and whole:
            for name, module in backbone.named_modules():
                if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                    for part, weight in module.named_parameters(name, recurse=False):
                        ready.setdefault(part, weight.detach())
            ready = {part: weight.to(torch.bfloat16) for part, weight in ready.items()}
        if channels_last:
            wide = torch.channels_last
            ready = {k: w.contiguous(memory_format=wide) if w.ndim == 4 else w for k, w in ready.items()}

        def forward(image: Tensor) -> Tensor:
            with torch.autocast(image.device.type, torch.bfloat16) if bf16 else nullcontext():
                # weights that two modules share are replaced in the one that is meant only
                return functional_call(backbone, ready, image, tie_weights=False) if ready else backbone(image)

        yield forward


class View:
    """One attack's view of a network."""

    def __init__(self, forward: Network, image: Tensor, target: Any, gain: Gain, clean: bool):
        self._forward, self.target, self._gain = forward, target, gain
        self._label = target if isinstance(target, Tensor) else None
        self.logits: Tensor | None = None
        self.survived = None if self._label is None else torch.zeros_like(self._label)
        self.passes = 0
        self.counting = True
        self.clean: Tensor | None = None
        if clean or gain.needs_clean:
            with torch.no_grad():
                self.clean = self._see(image)

    def gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of the summed gain with respect to the input; x may be written to afterwards."""
        x = x.detach().requires_grad_()
        logits = self._see(x)
        if self.counting:
            self.logits = logits.detach()
            self.passes += 1
            if self.survived is not None:
                self.survived += self.logits.argmax(1) == self._label
        # a sum, so that a sample's gradient depends neither on the batch size nor on the range of a low precision
        return torch.autograd.grad(self._gain(logits, self.target, self.clean).sum(), x)[0]

    @torch.no_grad()
    def worth(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gain at x, (B,), and whether the prediction is wrong, (B,) bool."""
        logits = self._see(x)
        gain = self._gain(logits, self.target, self.clean)
        wrong = torch.zeros_like(gain, dtype=torch.bool) if self._label is None else logits.argmax(1) != self._label
        return gain, wrong

    def evidence(self, curvature: Tensor | None = None) -> Evidence:
        assert self.logits is not None
        return Evidence(self.survived, self.passes, self.logits, self.clean, curvature)

    def _see(self, x: Tensor) -> Tensor:
        logits = self._forward(x)
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
