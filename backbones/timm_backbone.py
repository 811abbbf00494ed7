"""Any timm model by name, with the normalisation inside and an optional stem for small images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import RectifyError, did_you_mean
from .backbone import Backbone, Normalize


class TimmBackbone(Backbone):
    """A timm model (layer names are timm's, under `model.`).

    Args:
        name: model name, as `timm.list_models()` gives it.
        classes: number of logits K.
        channels: image channels C.
        stem: `cifar` replaces a ResNet's 7x7 stride-2 convolution and its pooling by a 3x3 stride-1 convolution.
        mean, std: per-channel normalisation; the model's own by default.
        weights: a local file of pretrained weights (safetensors or a plain state dict); the head may differ in K.
        options: further keyword arguments of the timm model (`img_size`, `drop_path_rate`, …).
    """

    def __init__(
        self,
        name: str,
        classes: int,
        channels: int = 3,
        stem: Literal["model", "cifar"] = "model",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        weights: Path | None = None,
        options: dict | None = None,
    ):
        super().__init__()
        import timm  # costs a second: only who uses it pays

        if not timm.is_model(name):
            raise RectifyError(f"timm has no model {name!r}.{did_you_mean(name, timm.list_models())}")
        overlay: dict[str, Any] = {}
        if weights is not None:
            if not weights.is_file():
                raise RectifyError(f"weights: {weights} is no file; give a local file of pretrained weights.")
            overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
        self.classes = classes
        model: Any = timm.create_model(name, num_classes=classes, in_chans=channels, **overlay, **(options or {}))
        if stem == "cifar":
            _use_cifar_stem(model, name, channels)
        self.model = model
        config = model.pretrained_cfg
        own = (config["mean"], config["std"]) if channels == len(config["mean"]) else ((0.5,), (0.5,))
        self.normalize = Normalize(mean or own[0], std or own[1])

    def features(self, image: Tensor) -> Tensor:
        hidden = self.model.forward_features(self.normalize(image))
        return self.model.forward_head(hidden, pre_logits=True)

    def head(self, features: Tensor) -> Tensor:
        return self.model.get_classifier()(features)


def _use_cifar_stem(model: nn.Module, name: str, channels: int) -> None:
    stem, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if not isinstance(stem, nn.Conv2d) or pool is None:
        raise RectifyError(f"stem: cifar does not fit {name}; it is for ResNets with one stem convolution.")
    model.conv1 = nn.Conv2d(channels, stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
