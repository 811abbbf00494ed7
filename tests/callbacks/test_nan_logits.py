"""A network that has diverged, or one broken image, ends in one sentence of the observer that met it."""

import pytest
import torch
from foreign import IMAGES, LABELS, Data, Foreign, trainer
from small_backbone import Net, Small

from lightning_rectify.callbacks import CalibrationReport, ExampleScores, NeuralCollapse
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier


class OneBroken(Data):
    """The second sample of each split has one pixel that is no number."""

    def _loader(self, start, stop):
        image = IMAGES[start:stop].clone()
        image[1, 0, 3, 3] = float("nan")
        rows = zip(image, LABELS[start:stop], range(start, stop), strict=True)
        data = [{"image": image, "label": label, "index": index} for image, label, index in rows]
        return torch.utils.data.DataLoader(data, self.batch)


def diverged(module):
    with torch.no_grad():
        [each for each in module.modules() if isinstance(each, torch.nn.Linear)][-1].weight[0] = float("nan")
    return module


def ours():
    return Classifier(Net())


WORDS = {
    CalibrationReport: "CalibrationSums: some logits are NaN; the network has diverged",
    NeuralCollapse: "NeuralCollapse: some (validation features|weights of the classifier) are NaN or infinite",
    ExampleScores: "ExampleScores: the logits of .* training samples were NaN, sample .* by epoch 0; the network has",
}
CASES = [
    *((kind, make) for kind in (CalibrationReport, NeuralCollapse, ExampleScores) for make in (ours, Small)),
    *((kind, Foreign) for kind in (CalibrationReport, ExampleScores)),  # it has no backbone, which NeuralCollapse needs
]


@pytest.mark.parametrize("broken", ["weights", "image"])
@pytest.mark.parametrize(("kind", "make"), CASES, ids=lambda part: part.__name__)
def test_it_is_one_sentence(tmp_path, kind, make, broken):
    module, data = make(), Data(train=64)
    if broken == "weights":
        diverged(module)
    else:
        data = OneBroken(train=64)
    scores = kind is ExampleScores
    observer = kind(samples=1797) if scores else kind(figure_every_n_epochs=0)
    run = trainer(tmp_path, observer, max_epochs=2, limit_val_batches=0 if scores else None)
    with pytest.raises(RectifyError, match=WORDS[kind]) as caught:
        run.fit(module, data) if scores else run.validate(module, data, verbose=False)
    assert "\n" not in str(caught.value)
