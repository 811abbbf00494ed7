"""The two Gaussians as a data source: their error against the closed form, their splits, from the command line."""

import re

import numpy as np
import pytest
import torch

from lightning_rectify.datamodules import ShardDataModule, bayes_error, gaussian_source, true_logits
from lightning_rectify.errors import RectifyError

MEAN, STD = 0.501961, 0.117647  # of configs/data/two_gaussians.yaml


def built(**options):
    data = ShardDataModule("two_gaussians", build={"options": options})
    data.prepare_data()
    data.setup()
    return data


def values(data, split):
    ids = data.ids[split]
    return (data.images(ids).double() / 255 - MEAN) / STD, torch.from_numpy(data.index.label[ids])


@pytest.mark.parametrize("gap", [0.05, 0.25])
def test_the_best_classifier_errs_by_the_closed_form(data_folder, gap):
    data = built(gap=gap, samples=1000, test_samples=6000)
    value, label = values(data, "test")
    assert value.shape == (6000, 3, 10, 10) and label.bincount().tolist() == [3000, 3000]
    expected = bayes_error(gap, 300)
    found = true_logits(value, gap).argmax(1).ne(label).double().mean()
    assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 6000) ** 0.5)
    # bytes keep the moments: mean 0 or gap, unit variance and a rounding of 1/30
    for number, mean in enumerate((0.0, gap)):
        own = value[label == number]
        assert own.mean() == pytest.approx(mean, abs=4 / own.numel() ** 0.5)
        assert own.var() == pytest.approx(1, abs=4 * (2 / own.numel()) ** 0.5)


def test_splits_are_balanced_fixed_and_the_seeds(data_folder):
    data = built(samples=1000, test_samples=500)
    assert {split: len(ids) for split, ids in data.ids.items() if split in ("train", "val", "test")} == {
        "train": 900, "val": 100, "test": 500,
    }  # fmt: skip
    assert values(data, "val")[1].bincount().tolist() == [50, 50]
    one, same, other = (gaussian_source(samples=50, test_samples=20, seed=seed) for seed in (0, 0, 1))
    pixels = [np.stack([source.image(number) for number in range(70)]) for source in (one, same, other)]
    assert np.array_equal(pixels[0], pixels[1])
    assert 0.9 < (pixels[0] != pixels[2]).mean() < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gap": 0}, "gap is 0"),
        ({"gap": 3}, "gap is 3"),
        ({"samples": 1}, "samples is 1"),
        ({"channels": 2}, "channels is 2"),
        ({"gpa": 0.1}, "Did you mean gap"),
    ],
)
def test_bad_options_are_one_sentence(data_folder, options, words):
    with pytest.raises(RectifyError, match=words):
        built(**options)


def test_mixup_trains_on_it_from_the_command_line(command):
    drawn = {"gap": 0.25, "samples": 2000, "test_samples": 500}
    options = [item for key, value in drawn.items() for item in (f"--data.build.options.{key}", value)]
    ended = command(
        "fit", "-c", "data/two_gaussians", "-c", "objective/mixup", *options, "--trainer.accelerator", "cpu",
        "--trainer.max_epochs", 2, "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    )  # fmt: skip
    assert ended.code == 0, ended.error
    accuracy = float(re.search(r"accuracy\W+([\d.]+)%", ended.out).group(1)) / 100
    assert 0.65 < accuracy <= 1 - bayes_error(0.25, 300) + 0.02
