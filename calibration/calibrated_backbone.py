"""A backbone whose logits are calibrated."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from ..backbones.backbone import Backbone, check_backbone
from ..backbones.last_linear import logit_layer
from ..frozen import frozen_eval
from .affine_scaling import DirichletCalibration, MatrixScaling, VectorScaling
from .calibration_map import CalibrationMap
from .temperature_scaling import TemperatureScaling


class CalibratedBackbone(Backbone):
    """`head(features)` of a backbone, then a post-hoc map; the map is saved with the weights.

    Args:
        backbone: the network, untouched.
        calibration: the map; fitted, or to be loaded.
    """

    def __init__(self, backbone: Backbone, calibration: CalibrationMap):
        super().__init__()
        check_backbone(backbone)
        self.backbone, self.calibration = backbone, calibration
        self.classes = calibration.classes

    def features(self, image: Tensor) -> Tensor:
        return self.backbone.features(image)

    def head(self, features: Tensor) -> Tensor:
        return self.calibration(self.backbone.head(features))


@torch.no_grad()
def folded(backbone: nn.Module, calibration: CalibrationMap, features: Tensor) -> nn.Module | None:
    """Return a copy of the backbone with a linear map multiplied into its last layer, or None where that cannot be.

    Temperature, vector and matrix scaling are linear in the logits, so the copy has the same architecture and its
    checkpoint loads wherever the original's did. The copy's logits are compared with the map's on `features` (n, D);
    a head that does more than one linear layer is not folded.
    """
    layer = logit_layer(backbone)
    linear = isinstance(calibration, TemperatureScaling | VectorScaling | MatrixScaling)
    if layer is None or not linear or isinstance(calibration, DirichletCalibration):
        return None
    if layer.out_features != calibration.classes:
        return None
    copy = deepcopy(backbone)
    own = logit_layer(copy)
    assert own is not None
    plain = deepcopy(calibration).cpu()  # the product is taken in float64, which not every device has
    weight, bias = own.weight.cpu().double(), 0 if own.bias is None else own.bias.cpu().double()
    if isinstance(plain, TemperatureScaling):
        weight, bias = weight * plain.inverse.double(), bias * plain.inverse.double()
    elif isinstance(plain, VectorScaling):
        scale = plain.weight.double()
        weight, bias = scale[:, None] * weight, scale * bias + plain.bias.double()
    else:
        assert isinstance(plain, MatrixScaling)
        matrix = plain.weight.double()
        bias = matrix @ bias if own.bias is not None else 0
        weight, bias = matrix @ weight, bias + plain.bias.double()
    if own.bias is None and not isinstance(plain, TemperatureScaling):
        return None
    own.weight.copy_(weight.to(own.weight.dtype))
    if own.bias is not None:
        own.bias.copy_(bias.to(own.bias.dtype))
    with frozen_eval(backbone), frozen_eval(copy):  # a head with dropout or batch statistics would differ from itself
        expected = calibration(backbone.head(features))  # type: ignore[operator]
        found = copy.head(features)  # type: ignore[operator]
    same = torch.allclose(found.softmax(1), expected.softmax(1), atol=1e-4)
    return copy if same else None
