"""The callback draws the right maps of the right samples and leaves training untouched."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from foreign import IMAGES, LABELS, Data, Foreign, trainer
from PIL import Image
from processes import run_ranks
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import nn

from lightning_rectify import attribution
from lightning_rectify.attribution import (
    aggregate_maps,
    class_sensitivity,
    combine_layers,
    grad_cam,
    input_gradient,
    insertion_deletion,
    map_drift,
    map_statistics,
    meta_saliency,
    norm_grad,
    norm_grad_layers,
    random_maps,
    saliency_method,
)
from lightning_rectify.attribution.methods import METHODS
from lightning_rectify.callbacks import SaliencyMaps, scaled_maps
from lightning_rectify.commands.monitors import KnownMonitors
from lightning_rectify.errors import RectifyError


class Recording(SaliencyMaps):
    def _explain(self, pl_module, panel):
        self.maps, self.logits = super()._explain(pl_module, panel)
        return self.maps, self.logits


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


EVERY = ("integrated_gradients", "smooth_grad", "norm_grad", "meta_norm_grad", "norm_grad_combined", "rise", "sobol")


@pytest.mark.parametrize(("dicts", "options"), [(True, {}), (False, {"samples": 3, "methods": EVERY})])
def test_training_is_bit_identical_with_and_without_it(tmp_path, dicts, options):
    losses, weights, random = [], [], []
    for callbacks in ([], [SaliencyMaps(**options)]):
        torch.manual_seed(1)
        net = Foreign()
        net.net[3].bias.requires_grad_(False)
        trainer(tmp_path, *callbacks, val_check_interval=4).fit(net, Data(dicts=dicts))
        losses.append(net.losses)
        weights.append(state(net))
        random.append(torch.get_rng_state())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
        assert [p.requires_grad for p in net.net[3].parameters()] == [True, False]
    assert losses[0] == losses[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert torch.equal(random[0], random[1])
    assert len(list(tmp_path.glob("figures/val_saliency/*.png"))) == 4


def test_maps_are_those_of_the_plain_functions(tmp_path):
    net, look = Foreign(), Recording(samples=12)
    run = trainer(tmp_path, look)
    run.validate(net, Data(), verbose=False)  # one process, so Lightning runs this in inference mode
    ids = look.panel.ids
    assert all(1000 <= index < 1301 for index in ids)
    images, labels = IMAGES[ids], LABELS[ids]
    assert torch.equal(look.panel.images, images)
    torch.testing.assert_close(look.maps["input_gradient"], input_gradient(net, images, labels))
    torch.testing.assert_close(look.maps["grad_cam"], grad_cam(net, images, labels, "net.5"))
    with torch.no_grad():
        torch.testing.assert_close(look.logits, net.eval()(images))
    assert not look.scales  # validation on its own fixes nothing
    drawn = sorted(path.name for path in (tmp_path / "figures" / "val_saliency").iterdir())
    assert drawn == ["step_00000000.png", "step_00000000.txt"]


def test_panel_and_scales_survive_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    save = ModelCheckpoint(tmp_path / "saved", save_last=True)
    look = Recording(samples=8, reference_epoch=1)
    run = trainer(tmp_path, look, save, enable_checkpointing=True)
    run.fit(Foreign(), Data())
    assert {epoch for _, epoch in look.scales.values()} == {1}
    again = Recording(samples=8)
    resumed = trainer(tmp_path, again, save, enable_checkpointing=True, max_epochs=3)
    # other validation data: the stored panel is drawn all the same
    last = save.last_model_path
    saved = torch.load(last, weights_only=True)["callbacks"]
    resumed.fit(Foreign(), Data(val=(1301, 1400)), ckpt_path=last, weights_only=True)
    assert again.panel.ids == look.panel.ids
    assert torch.equal(again.panel.images, look.panel.images)
    assert again.scales == look.scales
    assert set(again.maps) == {"input_gradient", "grad_cam"}
    (state,) = (part for key, part in saved.items() if "SaliencyMaps" in key or "Recording" in key)
    assert set(state["before"]) == {"input_gradient", "grad_cam"}
    # the drift is from the maps of the last drawing before the resume
    drift = map_drift(scaled_maps(again.maps["grad_cam"]), state["before"]["grad_cam"]).mean()
    assert resumed.callback_metrics["val/saliency/grad_cam/drift"] == pytest.approx(drift.item())


def test_the_curves_are_those_of_the_plain_functions(tmp_path):
    net, look = Foreign(), Recording(samples=9)
    run = trainer(tmp_path, look)
    run.validate(net, Data(), verbose=False)
    logged = {key.removeprefix("val/saliency/"): float(value) for key, value in run.callback_metrics.items()}
    images, labels = look.panel.images, look.panel.labels
    expected = {}
    for key, maps in {"input_gradient": input_gradient(net, images, labels),
                      "grad_cam": grad_cam(net, images, labels, "net.5")}.items():  # fmt: skip
        expected |= {f"{key}/{name}": float(value.mean()) for name, value in map_statistics(maps).items()}
        curves = insertion_deletion(net, images, labels, maps, 8)
        expected |= {f"{key}/insertion": curves.normalised_insertion, f"{key}/deletion": curves.normalised_deletion}
    chance = insertion_deletion(net, images, labels, random_maps(images), 8)
    expected |= {"random/insertion": chance.normalised_insertion, "random/deletion": chance.normalised_deletion}
    for layer, value in class_sensitivity(net, images, ["net.0", "net.3"]).items():
        expected[f"class_sensitivity/{layer.replace('.', '_')}"] = float(value.mean())
    assert logged == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_each_method_has_its_own_schedule_and_each_layer_its_own_scale(tmp_path):
    seen = []

    class Seen(Recording):
        def _explain(self, pl_module, panel):
            found = super()._explain(pl_module, panel)
            seen.append(sorted(found[0]))
            return found

    methods = {"norm_grad": 1, "smooth_grad": 2}
    look = Seen(samples=4, methods=methods, layer=["net.0", "net.3"], reference_epoch=0, thorough_every_n_epochs=0)
    run = trainer(tmp_path, look, max_epochs=4)
    run.fit(Foreign(), Data(train=32))
    often = ["norm_grad@net.0", "norm_grad@net.3"]
    assert seen == [[*often, "smooth_grad"], often, [*often, "smooth_grad"], [*often, "smooth_grad"]]
    assert set(look.scales) == {*often, "smooth_grad"}
    assert not any("insertion" in key for key in run.callback_metrics)
    assert 0 < run.callback_metrics["val/saliency/cost"] < 1
    assert {"val/saliency/smooth_grad/drift", "val/saliency/norm_grad@net.3/gini"} <= set(run.callback_metrics)


def test_the_prediction_is_explained_where_it_is_wrong_and_every_map_has_a_sentence(tmp_path, monkeypatch):
    from lightning_rectify.callbacks import saliency_maps

    drawn = {}
    plain = saliency_maps.draw_saliency

    def draw(images, captions, rows, title):
        drawn.update({(row.name, row.of): row for row in rows})
        return plain(images, captions, rows, title)

    monkeypatch.setattr(saliency_maps, "draw_saliency", draw)
    net, look = Foreign(), Recording(samples=6, methods=["linear_approximation", "input_gradient"])
    trainer(tmp_path, look).validate(net, Data(), verbose=False)
    names = ("linear approximation at net.5", "input gradient")
    assert list(drawn) == [(name, of) for of in ("", "of the prediction") for name in names]
    prediction = look.logits.argmax(1)
    wrong = prediction != look.panel.labels
    assert wrong.any()
    shown = drawn["input gradient", "of the prediction"].maps
    torch.testing.assert_close(shown[wrong], input_gradient(net, look.panel.images, prediction)[wrong])
    assert shown[~wrong].isnan().all()
    assert (
        drawn["linear approximation at net.5", ""].signed
        and drawn["linear approximation at net.5", "of the prediction"].signed
    )
    lines = next(tmp_path.rglob("*.txt")).read_text().splitlines()
    assert len(lines) == 12
    assert all("half in the" in line or "zero everywhere" in line for line in lines)


def test_the_picture_of_the_whole_data_holds_the_mean_maps_of_its_bins(tmp_path, monkeypatch):
    from lightning_rectify.callbacks import saliency_maps

    drawn = {}
    plain = saliency_maps.draw_aggregate
    monkeypatch.setattr(saliency_maps, "draw_aggregate", lambda bins, *rest: drawn.update(bins) or plain(bins, *rest))
    net = Foreign()
    look = SaliencyMaps(samples=2, methods=["input_gradient"], aggregate=500)  # more than there are
    trainer(tmp_path, look).validate(net, Data(), verbose=False)
    images, labels = IMAGES[1000:1301], LABELS[1000:1301]
    with torch.no_grad():
        p = net.eval()(images).softmax(1).gather(1, labels[:, None]).squeeze(1)
    expected = aggregate_maps(input_gradient(net, images, labels), p)
    bins, signed = drawn["input gradient"]
    # a class gives no more than its even share of the panel
    assert not signed and sum(bins.counts) == 301
    torch.testing.assert_close(bins.maps, expected.maps)
    assert len(list(tmp_path.glob("figures/val_saliency_aggregate/*.png"))) == 1


@pytest.mark.parametrize("name", ["rise", "sobol", "var_grad", "meta_norm_grad", "norm_grad_combined"])
def test_every_method_gives_maps_that_do_not_depend_on_the_batch(name):
    net, method = Foreign(), saliency_method(name)
    images, labels = IMAGES[:3], LABELS[:3]
    whole = method.explain(net, images, labels, "net.5")
    assert whole.shape == (3, 8, 8) and (method.signed or whole.min() >= 0)
    torch.testing.assert_close(method.explain(net, images[1:2], labels[1:2], "net.5"), whole[1:2])


def test_the_settings_of_a_method_are_those_its_function_was_called_with():
    net, images, labels = Foreign(), IMAGES[:2], LABELS[:2]
    for name, method in METHODS.items():
        found, settings = method.explain(net, images, labels, "net.5"), method.settings
        if name == "meta_norm_grad":
            expected = meta_saliency(net, images, labels, lambda m, x, y: norm_grad(m, x, y, "net.5"), **settings)
        elif name == "norm_grad_combined":
            expected = combine_layers(norm_grad_layers(net, images, labels), **settings)
        else:
            function = getattr(attribution, name.removesuffix("_selective"))
            expected = function(net, images, labels, *["net.5"] * method.needs_layer, **settings)
        if name == "rise":
            expected = expected - expected.flatten(1).amin(1).view(-1, 1, 1)
        torch.testing.assert_close(found, expected)
        changed = {key: 2 * value for key, value in settings.items() if key in ("steps", "samples", "masks", "designs")}
        if changed:  # what is told is what counts
            assert not torch.equal(getattr(attribution, name)(net, images, labels, **{**settings, **changed}), expected)


def test_drawn_every_n_epochs_after_the_optimizer_step(tmp_path):
    trainer(tmp_path, SaliencyMaps(samples=4, every_n_epochs=2), max_epochs=3).fit(Foreign(), Data(train=32))
    drawn = sorted(path.name for path in tmp_path.glob("figures/val_saliency/*.png"))
    assert drawn == ["step_00000001.png", "step_00000003.png"]


def test_the_scale_is_fixed_so_that_epochs_compare(tmp_path):
    torch.manual_seed(0)
    look = Recording(samples=8, methods=["input_gradient"], reference_epoch=0)
    run = trainer(tmp_path, look, max_epochs=1)
    net = Foreign()
    run.fit(net, Data())
    scale, epoch = look.scales["input_gradient"]
    assert epoch == 0 and set(look.scales) == {"input_gradient"}
    assert scale == pytest.approx(4 * np.quantile(look.maps["input_gradient"].numpy(), 0.995))
    run.fit_loop.max_epochs = 2
    run.fit(net, Data())
    assert look.scales["input_gradient"] == (scale, 0)


def test_the_picture_holds_the_images_and_the_brightest_colour_at_the_scale(tmp_path):
    from lightning_rectify.callbacks.saliency_figure import EDGE, GAP, HEADER, LEFT, TOP, MapRow, draw_saliency

    image = torch.rand(2, 1, 8, 8)
    maps = torch.zeros(2, 8, 8)
    maps[1, 0, 0] = 3.0
    maps[1, 7, 7] = 0.75
    drawn = draw_saliency(image, [("a", "a 0.9", True), ("b", "a 0.6", False)], [MapRow("m", maps, 3.0, 1)], "title")
    top, left, second = TOP + HEADER, LEFT, LEFT + EDGE + GAP
    cells = drawn[top : top + EDGE : 12, left : left + EDGE : 12, 0]
    assert np.array_equal(cells, (image[0, 0] * 255).round().byte().numpy())
    import matplotlib

    colours = (np.array(matplotlib.colormaps["inferno"]([0.0, 0.5, 1.0]))[:, :3] * 255).astype(np.uint8)
    row = top + EDGE + GAP
    assert np.array_equal(drawn[row + 5, second + 5], colours[2])
    assert np.array_equal(drawn[row + EDGE - 5, second + EDGE - 5], colours[1])  # square root: a quarter is half way up
    assert np.array_equal(drawn[row + 5, left + 5], colours[0])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 224, 160), (4, 30, 30), (2, 8, 20)])
def test_any_channels_and_sizes_are_drawn(shape):
    from lightning_rectify.callbacks.saliency_figure import MapRow, draw_saliency

    image = torch.randn(9, *shape)
    drawn = draw_saliency(image, [("é", "x", True)] * 9, [MapRow("m", image[:, 0].abs(), 1.0, 0)], "t")
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3


def test_long_names_widen_the_margin_and_long_classes_are_shortened():
    from lightning_rectify.callbacks import saliency_figure as figure

    name, maps = f"selective NormGrad at {'encoder.' * 4}layer_10", torch.ones(2, 8, 8)
    captions = [("of a very long name", f"{'W' * 40} 0.88", True)] * 2
    drawn = figure.draw_saliency(torch.zeros(2, 1, 8, 8), captions, [figure.MapRow(name, maps, 1.0, 1)], "title")
    top = figure.TOP + figure.HEADER + figure.EDGE + figure.GAP
    row, colour = drawn[top : top + figure.EDGE], figure.coloured(maps, 1.0)[0, 0, 0]
    first = int((row == colour).all((0, 2)).argmax())  # where the maps begin, all of one colour
    assert first > figure.LEFT + 100 and (row[:, first - figure.GAP : first] == 255).all()
    between = slice(first + figure.EDGE, first + figure.EDGE + figure.GAP)
    caption = drawn[figure.TOP : figure.TOP + figure.HEADER]
    assert (caption[:, between] == 255).all() and (caption[:, first : between.start] < 255).any()
    bins, title = aggregate_maps(torch.rand(4, 8, 8), torch.arange(4.0)), "wider than the pictures " * 8
    whole = figure.draw_aggregate({f"{name} a": (bins, False), f"{name} b": (bins, False)}, title, "p")
    written = (whole[10:30] < 128).any((0, 2)).nonzero()[0]
    assert written.max() > 1000 and (whole[:, written.max() + 2 :] == 255).all()


def test_class_names_reach_the_captions():
    from lightning_rectify.callbacks.panel import Panel
    from lightning_rectify.callbacks.saliency_maps import _captions

    panel = Panel([5, 6], torch.tensor([0, 1]), torch.zeros(2, 1, 8, 8))
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    assert _captions(panel, logits, ["cat", "dog"]) == [("cat", "cat 0.88", True), ("dog", "cat 0.88", False)]
    assert _captions(panel, logits, None)[1] == ("1", "0 0.88", False)


def test_memory_is_released(tmp_path):
    held = []

    class Count(SaliencyMaps):
        def on_train_epoch_start(self, trainer, pl_module):
            gc.collect()
            held.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))

    trainer(tmp_path, Count(samples=4), max_epochs=4).fit(Foreign(), Data(train=64))
    assert held[3] == held[2]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(tmp_path, precision):
    look = Recording(samples=4)
    trainer(tmp_path, look, precision=precision, max_epochs=1).fit(Foreign(), Data(train=64))
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in look.maps.values())


def test_a_compiled_network(tmp_path):
    net, look = Foreign(), Recording(samples=4)
    net.net.compile(backend="eager")
    trainer(tmp_path, look, max_epochs=1).fit(net, Data(train=64))
    images, labels = look.panel.images, look.panel.labels
    torch.testing.assert_close(look.maps["grad_cam"], grad_cam(net, images, labels, "net.5"))


class Attentive(Foreign):
    """A vision transformer of torchvision, whose blocks are made of torch's own attention module."""

    def __init__(self):
        super().__init__()
        self.net = torchvision.models.VisionTransformer(8, 2, 3, 2, 16, 32, num_classes=10)
        torch.nn.init.normal_(self.net.heads.head.weight, std=0.3)

    def forward(self, image):
        return self.net(image.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_vision_transformer_by_every_method(tmp_path, stage):
    torch.manual_seed(0)
    net, look = Attentive(), Recording(samples=2, methods=list(METHODS), aggregate=4)
    getattr(trainer(tmp_path, look, max_epochs=1), stage)(net, Data(train=32, val=(1000, 1016)))
    assert set(look.maps) == set(METHODS)
    silent = {name for name, maps in look.maps.items() if not maps.flatten(1).any(1).all()}
    assert silent <= {"linear_approximation", "grad_cam"} and "linear_approximation" in silent
    images, labels = look.panel.images, look.panel.labels
    block = "net.encoder.layers.encoder_layer_1"
    torch.testing.assert_close(look.maps["norm_grad"], norm_grad(net, images, labels, block))
    assert len(list(tmp_path.glob("figures/val_saliency*/*.png"))) == 2


class Flat(Foreign):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Tuple(Foreign):
    def forward(self, image):
        return self.net(image), image


class Bytes(Data):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "image": (batch["image"] * 255).byte()}


@pytest.mark.parametrize(
    ("module", "data", "options", "words"),
    [
        (Flat, Data, {}, r"no layer with a spatial output .* set methods: \[input_gradient\]"),
        (Foreign, Data, {"layer": "net.77"}, "has no layer 'net.77'"),
        (Foreign, Data, {"layer": "net.8"}, "Grad-CAM needs an output"),
        (Tuple, Data, {"methods": ["input_gradient"]}, "must return logits .* returned tuple"),
        (Foreign, Bytes, {"layer": "net.2"}, "float images"),
    ],
)
def test_what_cannot_be_explained_fails_before_the_first_epoch(tmp_path, module, data, options, words):
    net = module()
    with pytest.raises(RectifyError, match=words):
        trainer(tmp_path, SaliencyMaps(**options)).fit(net, data())
    assert net.losses == []


def test_a_run_without_validation_is_refused(tmp_path):
    with pytest.raises(RectifyError, match="has no validation"):
        trainer(tmp_path, SaliencyMaps(), limit_val_batches=0).fit(Foreign(), Data())


def test_a_callback_may_go_on_with_another_network(tmp_path):
    net, other, look = Foreign(), Foreign(), Recording(samples=2, methods=["grad_cam"])
    trainer(tmp_path, look).validate(net, Data(val=(1000, 1032)), verbose=False)
    other.net = nn.Sequential(*[net.net[place] for place in (0, 1, 2)], *net.net[5:-1], nn.Linear(8, 10))
    trainer(tmp_path, look).validate(other, Data(val=(1000, 1032)), verbose=False)
    expected = grad_cam(other, look.panel.images, look.panel.labels, "net.3")
    torch.testing.assert_close(look.maps["grad_cam"], expected)


def test_averaged_weights_are_explained_as_validated_or_refused(tmp_path):
    class Seen(Foreign):
        def validation_step(self, batch, batch_idx):
            self.validated = self.net[0].weight.clone()

    class Looking(SaliencyMaps):
        def _explain(self, pl_module, panel):
            self.weight = pl_module.net[0].weight.clone()
            return super()._explain(pl_module, panel)

    net, look = Seen(), Looking(samples=2)
    averaging = EMAWeightAveraging(decay=0.9)
    trainer(tmp_path, look, averaging, max_epochs=1).fit(net, Data(train=64, val=(1000, 1032)))
    assert torch.equal(look.weight, net.validated)
    net = Foreign()
    with pytest.raises(RectifyError, match=r"EMAWeightAveraging stands before it .* list SaliencyMaps first"):
        trainer(tmp_path, EMAWeightAveraging(decay=0.9), SaliencyMaps(samples=2)).fit(net, Data(train=64))
    assert net.losses == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"every_n_epochs": 0}, "every_n_epochs must be"),
        ({"methods": []}, "methods must be"),
        ({"methods": ["gradcam"]}, "Did you mean grad_cam"),
        ({"methods": {"rise": 0}}, "rise: 0; give epochs from 1 on"),
        ({"aggregate": -1}, "aggregate must be 0 or more"),
        ({"thorough_every_n_epochs": -1}, "thorough_every_n_epochs must be"),
    ],
)
def test_bad_options_are_one_sentence(options, words):
    with pytest.raises(RectifyError, match=words):
        SaliencyMaps(**options)


def test_a_checkpoint_can_watch_what_every_validation_logs(tmp_path):
    look = SaliencyMaps(samples=4, methods={"grad_cam": 1, "smooth_grad": 1}, thorough_every_n_epochs=1, aggregate=0)
    save = ModelCheckpoint(tmp_path / "saved", monitor="val/saliency/grad_cam/mass", mode="max")
    stop = EarlyStopping("val/saliency/class_sensitivity/net_3")
    run = trainer(tmp_path, look, save, stop, KnownMonitors(), enable_checkpointing=True, num_sanity_val_steps=1)
    run.fit(Foreign(), Data(train=64))
    assert save.best_model_score is not None
    assert set(look.later_keys()) == {key for key in run.callback_metrics if key.startswith("val/saliency/")}


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        (
            "grad_cam/mas",
            "grad_cam/mas, which SaliencyMaps does not log. Did you mean val/saliency/grad_cam",
        ),
        ("grad_cam/drift", "has no value at the first validation"),
        ("grad_cam/insertion", "measures every 5 epochs only"),
        ("class_sensitivity/net_99", "class_sensitivity/net_99, which SaliencyMaps does not log"),
    ],
)
def test_a_checkpoint_that_would_watch_an_old_value_or_none_is_refused_before_training(tmp_path, monitor, words):
    save, net = ModelCheckpoint(tmp_path, monitor=f"val/saliency/{monitor}"), Foreign()
    options = {"enable_checkpointing": True, "num_sanity_val_steps": 1}
    with pytest.raises(RectifyError, match=words):
        trainer(tmp_path, SaliencyMaps(samples=2), save, KnownMonitors(), **options).fit(net, Data(train=64))
    assert net.losses == []


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_ranks(Path(__file__).with_name("ranks_saliency_maps.py"), str(folder))


@pytest.mark.parametrize("kind", ["dicts", "tuples"])
def test_two_processes_choose_and_draw_what_one_does(ranks, kind, tmp_path):
    folder, reports = ranks
    torch.manual_seed(5)
    look = Recording(samples=13)
    run = trainer(tmp_path, look)
    run.validate(Foreign(), Data(dicts=kind == "dicts"), verbose=False)
    mine = {key: float(value) for key, value in run.callback_metrics.items()}
    assert len(mine) == 14
    for report in (found[kind] for found in reports):
        assert report["ids"] == look.panel.ids and not report["warnings"]
        assert report["images"] == look.panel.images.tolist()
        torch.testing.assert_close(torch.tensor(report["grad_cam"]), look.maps["grad_cam"])
        torch.testing.assert_close(torch.tensor(report["input_gradient"]), look.maps["input_gradient"])
        assert report["logged"] == pytest.approx(mine, abs=1e-5, nan_ok=True)
    for key in ("val_saliency", "val_saliency_aggregate"):
        (theirs,), (alone,) = (list(place.glob(f"figures/{key}/*.png")) for place in (folder / kind, tmp_path))
        assert np.array_equal(np.asarray(Image.open(theirs)), np.asarray(Image.open(alone)))
    (theirs,), (alone,) = (list(place.rglob("*.txt")) for place in (folder / kind, tmp_path))
    assert theirs.read_text() == alone.read_text()


def test_training_in_two_processes_is_bit_identical_with_and_without_it(ranks):
    for report in ranks[1]:
        assert report["losses"][0] == report["losses"][1]
        assert len(report["losses"][0]) == 8


def test_a_process_without_a_batch_stops_all_of_them(ranks):
    for report in ranks[1]:
        assert report["no batch"] == "SaliencyMaps: a process got no validation batch; give every process at least one."


def test_under_split_weights_the_maps_are_those_of_the_whole_network(tmp_path):
    for report in run_ranks(Path(__file__).with_name("ranks_saliency_split.py"), str(tmp_path)):
        for found in report.values():
            assert max(found["away"].values()) < 1e-4, found["away"]
            assert "val/saliency/class_sensitivity/layer3" in found["logged"]
            assert "val/saliency/norm_grad_combined/insertion" in found["logged"]


def test_a_layer_without_any_map_has_no_class_sensitivity():
    from lightning_rectify.callbacks.panel import Panel
    from lightning_rectify.callbacks.panel_study import panel_sensitivity

    net = Foreign()
    panel = Panel(list(range(6)), LABELS[:6], IMAGES[:6])
    assert set(panel_sensitivity(net, panel, ["net.0", "net.3"])) == {"net.0", "net.3"}
    torch.nn.init.zeros_(net.net[0].weight)
    torch.nn.init.zeros_(net.net[0].bias)
    assert "net.0" not in panel_sensitivity(net, panel, ["net.0", "net.3"])
