"""A plain convolutional network for small images of which the place of each stroke matters, such as letters."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import RectifyError
from .backbone import Backbone, Normalize


class PlainNet(Backbone):
    """Three 3x3 convolutions of stride 2 with batch norm and ReLU, then a linear head on the whole last map.

    Nothing is pooled, so features keep where something is: a network of 0.1 to 0.4 million weights that trains in
    minutes on a CPU. Layer names: `layer1` … `layer3`, `classifier`.

    Args:
        classes: width of the head: logits K, or the size of an embedding.
        channels: image channels C.
        size: height and width of the images in pixels.
        width: channels of the first layer; the others have 2 and 4 times as many.
        mean, std: per-channel normalisation of images in [0, 1].
    """

    def __init__(
        self,
        classes: int,
        channels: int = 1,
        size: int = 24,
        width: int = 32,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        super().__init__()
        if classes < 2:
            raise RectifyError(f"PlainNet: classes is {classes}; at least 2 are needed.")
        if size < 8:
            raise RectifyError(f"PlainNet: size is {size}; images of 8 pixels or more are needed.")
        if len(mean) not in (1, channels):
            raise RectifyError(f"PlainNet: mean has {len(mean)} entries for {channels} channels; give one or one each.")
        self.classes = classes
        self.normalize = Normalize(mean, std)
        inputs, side = channels, size
        for stage in range(3):
            outputs = width * 2**stage
            convolution = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
            self.add_module(f"layer{stage + 1}", nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()))
            inputs, side = outputs, -(-side // 2)
        self.size = size
        self.classifier = nn.Linear(inputs * side**2, classes)

    def features(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (self.size, self.size):
            raise RectifyError(f"PlainNet: images are {tuple(image.shape[-2:])}, size is {self.size}; set size.")
        x = self.normalize(image)
        for stage in range(3):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.flatten(1)

    def head(self, features: Tensor) -> Tensor:
        return self.classifier(features)
