"""Fully connected layers, for vectors and for images of which the place of each pixel is all that matters."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import RectifyError
from .backbone import Backbone, Normalize


class MLP(Backbone):
    """Linear layers with ReLU between, then a linear head; without hidden layers it is logistic regression.

    Images (B, C, size, size) are normalised and flattened; features are the last hidden layer (B, hidden[-1]), or the
    pixels themselves. Layer names: `layer1` …, `classifier`.

    Args:
        classes: K.
        channels: image channels C.
        size: height and width of the images in pixels.
        hidden: widths of the hidden layers.
        mean, std: per-channel normalisation of images in [0, 1].

    Raises:
        RectifyError: fewer than 2 classes, a width below 1, or images of another size.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 1,
        size: int = 8,
        hidden: Sequence[int] = (384, 64),
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        super().__init__()
        if classes < 2:
            raise RectifyError(f"MLP: classes is {classes}; at least 2 are needed.")
        if min(hidden, default=1) < 1 or size < 1:
            raise RectifyError(f"MLP: hidden is {list(hidden)} and size {size}; widths and size start at 1.")
        if len(mean) not in (1, channels):
            raise RectifyError(f"MLP: mean has {len(mean)} entries for {channels} channels; give one or one each.")
        self.classes, self.size, self.hidden = classes, size, tuple(hidden)
        self.normalize = Normalize(mean, std)
        inputs = channels * size**2
        for number, width in enumerate(self.hidden, 1):
            self.add_module(f"layer{number}", nn.Sequential(nn.Linear(inputs, width), nn.ReLU()))
            inputs = width
        self.classifier = nn.Linear(inputs, classes)

    def features(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (self.size, self.size):
            raise RectifyError(f"MLP: images are {tuple(image.shape[-2:])}, size is {self.size}; set size.")
        x = self.normalize(image).flatten(1)
        for number in range(1, len(self.hidden) + 1):
            x = getattr(self, f"layer{number}")(x)
        return x

    def head(self, features: Tensor) -> Tensor:
        return self.classifier(features)
