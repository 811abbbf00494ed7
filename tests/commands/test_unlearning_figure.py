"""The figure draws the numbers of the report."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_rectify.commands.unlearning_figure import draw_unlearning, write_unlearning_figure
from lightning_rectify.unlearning import unlearning_report


def outputs(strength, seed):
    draw = torch.Generator().manual_seed(seed)
    label = torch.arange(60) % 3
    parts = {}
    for name, more in (("forget", strength), ("retain", 4.0), ("test", 2.0)):
        logits = torch.randn(60, 3, generator=draw)
        logits[torch.arange(60), label] += more
        parts[name] = {"logits": logits, "label": label, "index": torch.arange(60)}
    return parts


@pytest.fixture(scope="module")
def models():
    return outputs(4.0, 0), outputs(2.5, 1), [outputs(1.5, 2), outputs(1.8, 3)]


def test_bars_and_histograms_are_those_of_the_models(models):
    original, unlearned, retrained = models
    report = unlearning_report(original, unlearned, retrained)
    left, right = draw_unlearning(report, original, unlearned, retrained[0]).axes
    heights = [bar.get_height() for bar in right.patches]
    keys = ("UA", "RA", "TA", "MIA_confidence", "MIA_loss", "MIA_modified_entropy")
    assert heights[:6] == [report["original"][key] for key in keys]
    assert heights[6:12] == [report[key] for key in keys]
    assert heights[12:] == [report["retrained"][key]["mean"] for key in keys]
    for stairs, model in zip(left.patches, (original, unlearned, retrained[0]), strict=True):
        part = model["forget"]
        p = part["logits"].softmax(1)[torch.arange(60), part["label"]].numpy()
        counts = [((low <= p) & (p < low + 0.05)).sum() for low in np.arange(20) / 20]
        assert stairs.get_data().values.tolist() == pytest.approx([100 * count / 60 for count in counts])


def test_without_a_retrained_model_a_png_is_written_whole(models, tmp_path):
    original, unlearned, _ = models
    report = unlearning_report(original, unlearned)
    path = write_unlearning_figure(tmp_path / "figures" / "unlearning.png", report, original, unlearned)
    assert np.asarray(Image.open(path)).std() > 10
    assert [file.name for file in path.parent.iterdir()] == ["unlearning.png"]
