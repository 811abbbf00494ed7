"""The study of a finished model: its numbers are those of the plain functions, its files are complete, it repeats."""

import csv
import importlib
import json
import shutil
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
import torchvision
from explained import Net
from foreign import IMAGES, LABELS, Data, Foreign
from PIL import Image

from lightning_rectify.attribution import (
    class_sensitivity,
    grid_pointing_game,
    input_gradient,
    insertion_deletion,
    random_maps,
)
from lightning_rectify.attribution.methods import METHODS
from lightning_rectify.callbacks.panel import Panel
from lightning_rectify.callbacks.robustness_card import _finite
from lightning_rectify.commands.explain import explain
from lightning_rectify.commands.explained_images import choose_images
from lightning_rectify.commands.pointing_game import _takes_grids, grids_of_four
from lightning_rectify.errors import RectifyError


class Alone(Data):
    """Without a trainer."""

    def test_dataloader(self):
        from foreign import Indexed

        return torch.utils.data.DataLoader(Indexed(1000, 1040), 16)


@pytest.fixture
def net():
    """A network that is sure, so that grids of sure images exist."""
    net = Foreign()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-2)
    net.train()
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(net(IMAGES[1000:1040]), LABELS[1000:1040])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def test_the_study_agrees_with_the_plain_functions_and_writes_its_files(net, tmp_path):
    methods = ("input_gradient", "grad_cam", "linear_approximation")
    study = explain(net, Alone(), tmp_path, methods, samples=5, images=1000)
    assert net.training
    images, labels = IMAGES[1000:1040], LABELS[1000:1040]
    found = insertion_deletion(net, images, labels, input_gradient(net, images, labels))
    row = study.methods["input_gradient"]
    assert row["images"] == 40
    assert row["insertion"] == pytest.approx(found.normalised_insertion, abs=1e-5)
    sensitivity = class_sensitivity(net, images, ["net.0", "net.3"])
    expected = {layer: pytest.approx(float(values.mean()), abs=1e-5) for layer, values in sensitivity.items()}
    assert study.model["class_sensitivity"] == expected
    assert 0 < study.model["bias_share"] < 1
    assert {path.relative_to(tmp_path).as_posix() for path in study.files} == {
        "figures/explain/panel.png", "figures/explain/aggregate.png", "figures/explain/singular_images.png",
        "explain.json", "explain.csv", "explain.txt",
    }  # fmt: skip
    assert all(Image.open(path).size[0] > 100 for path in study.files if path.suffix == ".png")
    written = json.loads((tmp_path / "explain.json").read_text())
    assert written["methods"] == study.methods and written["layer"] == "net.5"
    assert written["settings"] == {name: METHODS[name].settings for name in methods}
    rows = list(csv.DictReader((tmp_path / "explain.csv").open()))
    assert [row["method"] for row in rows] == [*methods, "random order"]
    assert float(rows[0]["gini"]) == pytest.approx(row["gini"], rel=1e-4)
    assert len((tmp_path / "explain.txt").read_text().splitlines()) == 15
    again = explain(net, Alone(), tmp_path / "again", methods, samples=5, images=1000)
    assert again.methods == study.methods


def test_the_grid_score_is_that_of_the_pointing_game(net, tmp_path):
    labels, sure = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4]), torch.tensor([1, 1, 1, 0, 1, 1, 1, 1, 1]).bool()
    # first ones of the classes 0 1 2 3, then 4 and the second ones of 0 2 3
    assert [four.tolist() for four in grids_of_four(labels, sure)] == [[0, 2, 4, 6], [8, 1, 5, 7]]
    study = explain(net, Alone(), tmp_path, ("input_gradient",), samples=2, images=40)
    score = study.methods["input_gradient"]["grid_pointing_game"]
    assert 0 < score < 1
    some = grid_pointing_game(net, IMAGES[1000:1004], LABELS[1000:1004], input_gradient).score.mean()
    assert abs(score - some) < 0.5


def test_few_images_are_spread_over_the_panel():
    panel = Panel(list(range(150)), torch.arange(150) // 15, torch.rand(150, 1, 2, 2))  # ten classes, sorted
    some = panel.spread(64)
    assert some.ids == [place * 150 // 64 for place in range(64)] and some.labels.unique().tolist() == list(range(10))
    assert torch.equal(some.images, panel.images[some.ids])
    assert panel.spread(1000).ids == panel.ids


def test_numbers_json_has_not_are_null():
    found = _finite({"a": float("nan"), "b": {"c": float("-inf"), "d": 0.5}, "n": 3})
    assert found == {"a": None, "b": {"c": None, "d": 0.5}, "n": 3}


class Validated(Alone):
    """Without test data."""

    empty: object = []

    def test_dataloader(self):
        return self.empty

    def val_dataloader(self):
        return iter(list(Alone.test_dataloader(self)))  # without a length


@pytest.mark.parametrize("empty", [[], None, iter(())])
def test_without_test_images_those_of_validation_are_read(empty):
    data = Validated()
    data.empty = empty
    panel, many = choose_images(data, [5, 20], torch.device("cpu"))
    assert len(panel) == 5 and len(many) == 20


def test_the_pointing_game_is_left_out_for_one_size_only_and_hides_no_error(net, tmp_path, monkeypatch):
    class Fixed(torch.nn.Module):
        """Of one image size."""

        def __init__(self, error):
            super().__init__()
            self.net, self.error = net, error

        def forward(self, image):
            if image.shape[2:] != IMAGES.shape[2:]:
                raise self.error
            return self.net(image)

    said = []
    monkeypatch.setattr("lightning_rectify.commands.pointing_game.rank_zero_info", said.append)
    study = explain(Fixed(AssertionError("Input height 24")), Alone(), tmp_path, ("input_gradient",), None, 2, 40)
    assert "grid_pointing_game" not in study.methods["input_gradient"]
    assert said == ["explain: no grid pointing game, the model takes images of one size only: Input height 24"]
    panel, _ = choose_images(Alone(), [5, 40], torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        _takes_grids(Fixed(torch.OutOfMemoryError("full")), panel, "cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ("gradcam",)}, "explain: methods has no 'gradcam'. Did you mean grad_cam"),
        ({"methods": ()}, "methods must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"layer": "net.77", "methods": ("grad_cam",)}, "no layer 'net.77'"),
    ],
)
def test_bad_options_are_one_sentence(net, tmp_path, options, words):
    with pytest.raises(RectifyError, match=words):
        explain(net, Alone(), tmp_path, **options)


class Plain(pl.LightningDataModule):
    """Somebody else's, set up as Lightning asks: each stage makes what its loader reads, after `prepare_data`."""

    def __init__(self, test=True, batch=8):
        super().__init__()
        self.called, self.batch = [], batch
        if test:
            self.test_dataloader = lambda: self._loader("test")

    def prepare_data(self):
        self.called.append("prepare")

    def setup(self, stage):
        self.called.append(stage)
        self.ready = stage

    def _loader(self, stage):
        assert self.ready == stage
        pairs = torch.utils.data.TensorDataset(IMAGES[1000:1040], LABELS[1000:1040])
        return torch.utils.data.DataLoader(pairs, self.batch)

    def val_dataloader(self):
        return self._loader("validate")


def test_a_foreign_data_module_is_set_up_for_what_is_read(net, monkeypatch):
    with_test, without = Plain(), Plain(test=False)
    (first,), (second,) = (choose_images(data, [20], torch.device("cpu")) for data in (with_test, without))
    assert with_test.called == ["prepare", "test"] and without.called == ["prepare", "test", "validate"]
    assert first.ids == second.ids and torch.equal(first.images, second.images)
    said = []
    monkeypatch.setattr("lightning_rectify.commands.explained_images.rank_zero_info", said.append)
    (all_of,) = choose_images(Plain(), [1000], torch.device("cpu"))
    assert len(all_of) == 40
    assert said == ["explain: 40 images, balanced by class, stand for the 1000 asked for; the data hold 40."]

    class Failing(Plain):
        def test_dataloader(self):
            raise NotImplementedError("mine")

    with pytest.raises(NotImplementedError, match="mine"):  # its own error is not taken for no test data
        choose_images(Failing(test=False), [20], torch.device("cpu"))


def test_a_dear_method_and_its_chance_are_measured_on_the_same_images(net, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_rectify.commands.method_measures.CHEAP", 12)
    monkeypatch.setattr("lightning_rectify.commands.explain.CHEAP", 12)
    costly = replace(METHODS["input_gradient"], passes=13)
    monkeypatch.setitem(METHODS, "costly", costly)
    study = explain(net, Alone(), tmp_path, ("costly", "grad_cam"), samples=1, images=20)
    assert [(name, row["images"]) for name, row in study.methods.items()] == [
        ("costly", 12), ("grad_cam", 20), ("random order", 20), ("random order, 12 images", 12),
    ]  # fmt: skip
    (few,) = (panel.spread(12) for panel in choose_images(Alone(), [20], torch.device("cpu")))
    for name, maps in (
        ("costly", input_gradient(net, few.images, few.labels)),
        ("random order, 12 images", random_maps(few.images)),
    ):
        found = insertion_deletion(net, few.images, few.labels, maps)
        assert study.methods[name]["insertion"] == pytest.approx(found.normalised_insertion, abs=1e-5)
        assert study.methods[name]["deletion"] == pytest.approx(found.normalised_deletion, abs=1e-5)
    only = explain(net, Alone(), tmp_path, ("costly",), samples=1, images=20)
    assert list(only.methods) == ["costly", "random order, 12 images"]


class Given(Plain):
    """Of these images."""

    def __init__(self, images):
        super().__init__(test=False)
        self.images = images

    def _loader(self, stage):
        labels = torch.arange(len(self.images)) % 10
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(self.images, labels), 4)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(6, 64), r"torch.float32 \(4, 64\), not float images \(B, C, H, W\)"),
        (torch.randint(255, (6, 1, 8, 8), dtype=torch.uint8), "torch.uint8 .* not float images"),
        (torch.rand(6, 3, 8, 8), "does not take images with 3 channels"),
        (torch.rand(6, 4, 8, 8), "does not take images with 4 channels"),
        (torch.rand(0, 1, 8, 8), "no test or validation images"),
        (torch.rand(14, 1, 8, 8), "target holds 0 … 9, but the model has classes 0 … 3"),
    ],
)
def test_data_that_cannot_be_explained_are_one_sentence(net, tmp_path, images, words):
    net.net[-1] = torch.nn.Linear(12, 4 if len(images) == 14 else 10)
    with pytest.raises(RectifyError, match=words):
        explain(net, Given(images), tmp_path, ("input_gradient",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 4])
def test_one_image_of_any_number_of_channels(tmp_path, channels):
    net = Net(channels, 10).eval()  # no label is sure: no grids
    study = explain(net, Given(torch.rand(1, channels, 10, 12)), tmp_path, ("input_gradient", "grad_cam"), None, 1, 1)
    assert study.methods["grad_cam"]["images"] == 1 and len(study.files) == 5


def test_the_command(command):
    quick = ("--trainer.enable_progress_bar", "false", "--trainer.max_epochs", 1, "--final_test", "false")
    assert command("fit", "-c", "quickstart", *quick).code == 0
    best = command.folder / "runs" / "quickstart" / "checkpoints" / "best.ckpt"
    ended = command("explain", "-c", "quickstart", "--ckpt_path", best, "--methods", "[input_gradient, norm_grad]",
                    "--images", 20, "--samples", 4)  # fmt: skip
    assert ended.code == 0, ended.error
    (found,) = command.folder.glob("runs/*/explain.json")
    assert set(json.loads(found.read_text())["methods"]) == {"input_gradient", "norm_grad", "random order"}
    untrained = command("explain", "-c", "quickstart")
    assert untrained.code == 2 and "the weights are untrained" in untrained.error


def test_a_transformer_of_torchs_own_attention(tmp_path):
    net = torchvision.models.VisionTransformer(8, 2, 2, 2, 8, 16, num_classes=10).eval()
    net.conv_proj = torch.nn.Conv2d(1, 8, 2, 2)
    torch.nn.init.normal_(net.heads.head.weight)
    study = explain(net, Alone(), tmp_path, ["norm_grad"], samples=2, images=4)
    images = choose_images(Alone(), [4], "cpu")[0].images
    share = []
    for image in images:
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], image)
        linear = (jacobian * image).sum((1, 2, 3))
        bias = (net(image[None])[0] - linear).abs().sum()
        share.append(float(bias / (bias + linear.abs().sum())))
    assert study.model["bias_share"] == pytest.approx(sum(share) / 4, rel=1e-3)
    assert len(study.files) == 5


OWN = """
import torch
from foreign import Foreign


class Whole(Foreign):
    pass


class Parts(Foreign):  # its backbone gives features, of which a head makes the logits
    def __init__(self):
        super().__init__()
        self.backbone, self.head = self.net[:-1], self.net[-1]
        del self.net

    def forward(self, image):
        return self.head(self.backbone(image))
"""


@pytest.mark.parametrize(("kind", "layer"), [("Whole", "net.5"), ("Parts", "backbone.5")])
def test_somebody_elses_module_is_explained_as_a_whole(command, tmp_path, monkeypatch, kind, layer):
    (tmp_path / "own_explained.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    module = getattr(importlib.import_module("own_explained"), kind)()
    torch.save({"state_dict": module.state_dict()}, command.folder / "own.ckpt")
    own = ("-c", "own.yaml", "--allow", "own_explained", "--module", f"own_explained.{kind}")
    (command.folder / "own.yaml").write_text("data: {source: digits}\n")
    for weights in ("--ckpt_path", "--init_from"):
        ended = command("explain", *own, weights, "own.ckpt", "--methods", "[grad_cam]", "--images", 20, "--samples", 4)
        assert ended.code == 0, ended.error
        (found,) = (json.loads(path.read_text()) for path in command.folder.glob("runs/*/explain.json"))
        assert found["layer"] == layer
        assert [path.name for path in command.folder.glob("runs/*")] == [f"digits-{kind}"]
        shutil.rmtree(command.folder / "runs")
    net = Net(1, 10)
    torch.save({"state_dict": net.state_dict()}, command.folder / "other.ckpt")
    refused = command("explain", *own, "--ckpt_path", "other.ckpt")
    assert refused.code == 2 and "set module and model to the one it was trained with" in refused.error
