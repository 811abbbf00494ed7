"""Residual networks for small images: the CIFAR family of He et al. 2016 (depth 6n + 2) and a CIFAR-stem ResNet-18."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RectifyError
from .backbone import Backbone, Normalize

Norm = Literal["batch", "group", "none"]


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(min(8, channels), channels) if kind == "group" else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm):
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
        self.norm1 = _norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = _norm(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=bias), _norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class ResNet(Backbone):
    """A ResNet with a 3x3 stem at full resolution, for images of 8 to 64 pixels.

    Layer names: `stem`, `layer1` … `layer4`, `pool`, `classifier`.

    Args:
        classes: number of logits K.
        channels: image channels C.
        depth: 8, 14, 20, … (6n + 2, three stages of `width`, 2, 4 times) or 18 (four stages, up to 8 times).
        width: channels of the first stage; 16 for 6n + 2 and 64 for 18 by default.
        norm: `batch`, `group` (8 groups; the same in any number of processes) or `none`.
        mean, std: per-channel normalisation of images in [0, 1].
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        depth: int = 8,
        width: int | None = None,
        norm: Norm = "batch",
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        super().__init__()
        if depth == 18:
            blocks, stages, width = 2, 4, width or 64
        elif depth >= 8 and (depth - 2) % 6 == 0:
            blocks, stages, width = (depth - 2) // 6, 3, width or 16
        else:
            raise RectifyError(f"ResNet: depth is {depth}; choose 18 or 6n + 2 (8, 14, 20, …).")
        if classes < 2:
            raise RectifyError(f"ResNet: classes is {classes}; at least 2 are needed.")
        if len(mean) not in (1, channels):
            raise RectifyError(f"ResNet: mean has {len(mean)} entries for {channels} channels; give one or one each.")
        self.classes = classes
        self.normalize = Normalize(mean, std)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none"), _norm(norm, width), nn.ReLU()
        )
        inputs = width
        for stage in range(stages):
            outputs = width * 2**stage
            layers = [BasicBlock(inputs, outputs, 2 if stage else 1, norm)]
            layers += [BasicBlock(outputs, outputs, 1, norm) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            inputs = outputs
        self._stages = [f"layer{stage + 1}" for stage in range(stages)]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def features(self, image: Tensor) -> Tensor:
        x = self.stem(self.normalize(image))
        for stage in self._stages:
            x = getattr(self, stage)(x)
        return self.pool(x).flatten(1)

    def head(self, features: Tensor) -> Tensor:
        return self.classifier(features)
