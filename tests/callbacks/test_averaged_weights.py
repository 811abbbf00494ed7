"""Observers that look at the network once more when a validation ends must see the weights that were validated."""

import pytest
from foreign import Data, Foreign, trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from robust_cases import report
from small_backbone import Small

from lightning_rectify.callbacks import NeuralCollapse
from lightning_rectify.errors import RectifyError


@pytest.mark.parametrize(("observer", "module"), [(report, Foreign), (NeuralCollapse, Small)])
def test_averaging_that_stands_before_it_is_refused(tmp_path, observer, module):
    callback, net = observer(), module()
    with pytest.raises(RectifyError, match=f"stands before it .* list {type(callback).__name__} first"):
        trainer(tmp_path, EMAWeightAveraging(decay=0.9), callback).fit(net, Data(train=64))
    assert net.losses == []
