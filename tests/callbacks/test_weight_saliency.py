"""Weights off the mask stay bit for bit under all that moves weights, in one process and on every strategy."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from forgetful import Data, Module, SaveAt, off_mask, trainer, weights
from processes import run_ranks
from selections import FORMS, masks_and_scores

from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks import EMA, WeightSaliency
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier
from lightning_rectify.losses import EmpiricalRisk
from lightning_rectify.unlearning import WeightMask

STRATEGIES = ("ddp", "ddp views", "fsdp2", "zero1", "zero2", "zero2 bf16", "zero3")


def fit(folder, callback, module=None, callbacks=(), resume=None, data=None, **options):
    module = module or Module()
    before = weights(module)
    trainer(folder, callback, *callbacks, **options).fit(module, datamodule=data or Data(), ckpt_path=resume)
    return module, off_mask(callback.mask, before, weights(module))


def sgd(**options):
    return lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, **options)


OPTIMIZERS = {
    "SGD with momentum": sgd(),
    "Nesterov": sgd(nesterov=True),
    "Adam": lambda weights: torch.optim.Adam(weights, lr=0.01),
    "AdamW without decay": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.0),
    "Adagrad": lambda weights: torch.optim.Adagrad(weights, lr=0.01),
    "RMSprop": lambda weights: torch.optim.RMSprop(weights, lr=0.01),
}
OPTIONS = {
    "plain": {},
    "clipped by norm": {"gradient_clip_val": 0.1},
    "clipped by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "accumulated": {"accumulate_grad_batches": 4},
    "bf16": {"precision": "bf16-mixed"},
    "weights in bf16": {"precision": "bf16-true"},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(tmp_path, name):
    callback = WeightSaliency(0.3, weight_decay=0.01)
    _, (off, on) = fit(tmp_path, callback, Module(OPTIMIZERS[name]))
    assert off == 0 and on > 0.9 * callback.mask.ones
    assert callback.off_mask_drift == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_trainer_options(tmp_path, name):
    callback = WeightSaliency(0.3, weight_decay=0.01)
    module = Module()
    before = weights(module)
    if name == "weights in bf16":
        before = {key: value.bfloat16() for key, value in before.items()}
    trainer(tmp_path, callback, **OPTIONS[name]).fit(module, datamodule=Data())
    off, on = off_mask(callback.mask, before, weights(module))
    assert off == 0 and on > 0 and callback.off_mask_drift == 0


def test_masked_gradients_alone_move_held_weights(tmp_path):
    """What published code did, and what the check must see."""
    callback = WeightSaliency(0.3, freeze="grad_only")
    _, (off, _) = fit(tmp_path, callback, Module(sgd(weight_decay=0.005)))
    assert off > 0.9 * (callback.mask.size - callback.mask.ones)
    assert callback.off_mask_drift > 0


def test_own_decay_is_coupled_decay_of_the_selected_weights(tmp_path):
    """Against a loop written out: SGD with momentum on the mask, decay once a step, in a short last window too."""
    callback = WeightSaliency(0.4, weight_decay=0.1)
    module, _ = fit(tmp_path, callback, Module(), accumulate_grad_batches=4, max_epochs=1)
    twin, velocity = Module(), {}
    batches = list(_training_batches())
    for window in (batches[:4], batches[4:]):
        twin.zero_grad()
        for batch in window:
            (twin.training_step(batch, 0) / 4).backward()
        with torch.no_grad():
            for name, weight in twin.named_parameters():
                step = (weight.grad + 0.1 * weight) * callback.mask.bits(name)
                velocity[name] = step if name not in velocity else 0.9 * velocity[name] + step
                weight -= 0.05 * velocity[name]
    for (name, ours), theirs in zip(module.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def _training_batches():
    from forgetful import Stateful

    return Stateful(0, 1, 6, 8)


def test_clipping_acts_after_the_mask(tmp_path):
    """One step of SGD with rate 1 is as long as the clipped gradient of what may move."""
    callback = WeightSaliency(0.2)
    module = Module(lambda weights: torch.optim.SGD(weights, lr=1.0))
    before = weights(module)
    trainer(tmp_path, callback, gradient_clip_val=0.05, max_steps=1).fit(module, datamodule=Data())
    moved = sum((before[name] - value).square().sum() for name, value in weights(module).items()).sqrt()
    torch.testing.assert_close(moved, torch.tensor(0.05), rtol=1e-3, atol=0)


def test_nan_off_the_mask_does_not_get_through(tmp_path):
    class Spoilt(Module):
        def on_train_start(self):  # after the callback's hooks: a gradient that is NaN where nothing may move
            mask = self.trainer.callbacks[0].mask
            for name, weight in self.named_parameters():
                keep = mask.bits(name)
                weight.register_hook(lambda g, keep=keep: torch.where(keep, g, torch.nan))

    callback = WeightSaliency(0.3)
    _, (off, on) = fit(tmp_path, callback, Spoilt())
    assert off == 0 and on > 0


def test_resume_in_mid_epoch_reaches_the_same_weights_without_a_new_mask(tmp_path):
    path = str(tmp_path / "middle.ckpt")
    whole, _ = fit(tmp_path / "a", WeightSaliency(0.3, weight_decay=0.01), callbacks=[SaveAt(8, path)])
    saved = torch.load(path, weights_only=True)
    data, callback = Data(), WeightSaliency(0.3, weight_decay=0.01)
    start = Module()
    original = weights(start)
    with torch.no_grad():
        for weight in start.parameters():
            weight.normal_()  # a resumed run starts from anything: the checkpoint counts
    resumed, _ = fit(tmp_path / "b", callback, start, resume=path, data=data)
    assert data.asked == 0 and saved["global_step"] == 8
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert off_mask(callback.mask, original, weights(resumed))[0] == 0


def test_average_keeps_held_weights_too(tmp_path):
    module = Classifier(ResNet(10, channels=1, width=8, norm="group"), EmpiricalRisk(), optimizer=sgd())
    before = {name.removeprefix("backbone."): value for name, value in weights(module).items()}
    callback, path = WeightSaliency(0.3), tmp_path / "end.ckpt"
    logger = pl.loggers.CSVLogger(tmp_path)
    fit_with = trainer(tmp_path, callback, EMA(0.5), SaveAt(12, path), logger=logger)
    fit_with.fit(module, datamodule=Data())
    assert fit_with.callback_metrics["off_mask_drift"] == 0
    logged = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert logged[-1].split(",")[logged[0].split(",").index("off_mask_drift")] == "0.0"
    saved = torch.load(path, weights_only=True)
    averaged = {name.removeprefix("backbone."): value for name, value in saved["state_dict"].items()}
    for after in (averaged, saved["raw_backbone"], weights(module.backbone)):
        off, on = off_mask(callback.mask, before, after)
        assert off == 0 and on > 0
    assert set(callback.mask.shapes) == set(before)  # the names are the backbone's own
    assert any(not torch.equal(averaged[name], saved["raw_backbone"][name]) for name in before)


def test_mask_of_a_file_and_what_is_written(tmp_path):
    first = WeightSaliency(0.25, include=["weights"])
    _, (off, _) = fit(tmp_path / "a", first)
    about = json.loads((tmp_path / "a" / "weight_saliency.json").read_text())
    assert off == 0 and about["kept"] == first.mask.ones == first.mask.size // 4
    again, data = WeightSaliency(mask=tmp_path / "a" / "weight_saliency.safetensors"), Data()
    fit(tmp_path / "b", again, data=data)
    assert again.mask.digest == first.mask.digest and data.asked == 0


def test_frozen_parameters_and_whole_tensors(tmp_path):
    module = Module()
    module.net[0].requires_grad_(False)
    callback = WeightSaliency(1.0, include=["weights"])
    after, (off, on) = fit(tmp_path, callback, module)
    assert off == 0 and on > 0 and "net.0.weight" not in callback.mask.shapes
    assert [weight.requires_grad for weight in after.net[0].parameters()] == [False, False]
    assert all(not weight._backward_hooks for weight in after.parameters())
    assert len(callback._hooks) == 0


def test_what_is_unfrozen_later_is_held(tmp_path):
    class Thaws(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            module.net[0].requires_grad_(batch_idx >= 1)

    module = Module()
    module.net[0].requires_grad_(False)
    _, (off, on) = fit(tmp_path, WeightSaliency(0.3), module, callbacks=[Thaws()])
    assert module.net[0].weight.requires_grad and off == 0 and on > 0


def test_a_module_with_a_backbone_of_features_is_masked_whole(tmp_path):
    class Parts(Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = self.net[:7], self.net[7]
            del self.net

        def forward(self, image):
            return self.head(self.backbone(image))

    module, whole = Parts(), Module()
    parts_callback, whole_callback = WeightSaliency(0.1), WeightSaliency(0.1)
    _, (off, _) = fit(tmp_path / "parts", parts_callback, module)
    fit(tmp_path / "whole", whole_callback, whole)
    assert off == 0 and "head.weight" in parts_callback.mask.shapes
    assert torch.equal(parts_callback.mask.bits("head.weight"), whole_callback.mask.bits("net.7.weight"))
    assert torch.equal(parts_callback.mask.bits("backbone.0.weight"), whole_callback.mask.bits("net.0.weight"))


def test_something_that_writes_weights_is_found(tmp_path):
    class Writes(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            with torch.no_grad():
                module.net[7].weight.mul_(0.999)

    with pytest.raises(RectifyError, match=r"1 parameters, first net.7.weight, moved off the mask by up to"):
        fit(tmp_path, WeightSaliency(0.3), callbacks=[Writes()])


def test_weights_that_change_between_setup_and_training_are_found(tmp_path):
    class Late(Module):
        def setup(self, stage):
            torch.nn.init.zeros_(self.net[0].weight)

    with pytest.raises(RectifyError, match=r"net.0.weight is not what it was when the mask was made"):
        fit(tmp_path, WeightSaliency(0.3), Late())


def test_an_optimizer_with_a_history_is_refused(tmp_path):
    class Used(Module):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            self.training_step(next(iter(_training_batches())), 0).backward()
            before = weights(self)
            optimizer.step()
            optimizer.zero_grad()
            self.load_state_dict(before, strict=False)
            return optimizer

    with pytest.raises(RectifyError, match="SGD holds moments of earlier steps"):
        fit(tmp_path, WeightSaliency(0.3), Used())


def test_resume_from_a_checkpoint_without_a_mask_is_refused(tmp_path):
    path = str(tmp_path / "unmasked.ckpt")
    trainer(tmp_path, SaveAt(3, path)).fit(Module(), datamodule=Data())
    with pytest.raises(RectifyError, match=r"checkpoint to resume from has no weight mask.*--init_from"):
        fit(tmp_path, WeightSaliency(0.3), resume=path)


def test_resume_with_another_mask_is_refused(tmp_path):
    path = str(tmp_path / "some.ckpt")
    fit(tmp_path, WeightSaliency(0.3), callbacks=[SaveAt(3, path)])
    fit(tmp_path / "other", WeightSaliency(0.2))
    for other, words in (
        (WeightSaliency(0.4), "density is 0.4, and the mask of the run to resume has 0.3"),
        (WeightSaliency(0.3, scope="layer"), "scope is layer, and the mask of the run to resume has global"),
        (WeightSaliency(0.3, include=["weights"]), "include is weights, and the mask"),
        (WeightSaliency(mask=tmp_path / "other" / "weight_saliency.safetensors"), "has another mask than"),
    ):
        with pytest.raises(RectifyError, match=words):
            fit(tmp_path, other, resume=path)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (sgd(weight_decay=0.1), "weight_decay 0.1"),
        (lambda weights: torch.optim.AdamW(weights), "weight_decay 0.01"),
        (lambda weights: torch.optim.Muon([w for w in weights if w.ndim == 2], weight_decay=0.0), "Muon moves"),
    ],
)
def test_optimizers_that_move_held_weights_are_refused(tmp_path, optimizer, words):
    with pytest.raises(RectifyError, match=words):
        fit(tmp_path, WeightSaliency(0.3), Module(optimizer))


def test_a_mask_of_another_network_is_refused(tmp_path):
    fit(tmp_path, WeightSaliency(0.3))
    other = Module()
    other.net[7] = torch.nn.Linear(12, 11)
    with pytest.raises(RectifyError, match=r"another architecture \(net.7.weight is \(10, 12\) there and \(11, 12\)"):
        fit(tmp_path, WeightSaliency(mask=tmp_path / "weight_saliency.safetensors"), other)


def test_data_without_a_request_are_named(tmp_path):
    with pytest.raises(RectifyError, match=r"LightningDataModule has none; use ShardDataModule with data.forget"):
        trainer(tmp_path, WeightSaliency()).fit(Module(), datamodule=pl.LightningDataModule())
    with pytest.raises(RectifyError, match="there is no datamodule"):
        trainer(tmp_path, WeightSaliency()).fit(Module(), _training_batches())
    with pytest.raises(RectifyError, match="the forget set is empty"):
        trainer(tmp_path, WeightSaliency()).fit(Module(), datamodule=Data(forget=(200, 200)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"density": 0}, r"density is 0; .* \(0, 1\]"),
        ({"density": 1.5}, "density is 1.5"),
        ({"freeze": "hard"}, "freeze is hard; choose exact or grad_only"),
        ({"scope": "block"}, "scope is block; choose global or layer"),
        ({"abs_order": "never"}, "abs_order is never; choose after or before"),
        ({"include": ["conv"]}, r"include is \['conv'\]; give one or more of weights, bias, norm"),
        ({"include": []}, "include is"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
    ],
)
def test_bad_values_are_named(arguments, words):
    with pytest.raises(RectifyError, match=words):
        WeightSaliency(**arguments)


def test_decay_where_its_step_is_not_known_is_refused(tmp_path):
    class ByHand(Module):
        automatic_optimization = False

    with pytest.raises(RectifyError, match="ByHand optimizes by hand"):
        fit(tmp_path, WeightSaliency(weight_decay=0.1), ByHand())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("ranks_weight_saliency.py")
    env = {"XDG_CONFIG_HOME": str(folder / "config")}  # where the key of DeepSpeed's seals lies
    return run_ranks(script, str(folder), timeout=600, env=env), folder


def test_two_ranks_make_the_mask_of_one_process(ranks, tmp_path):
    """On 37 samples, of which one rank sees a padded one."""
    alone = WeightSaliency(0.3)
    fit(tmp_path, alone, max_steps=1)
    for strategy in STRATEGIES:
        for report in ranks[0]:
            assert report[strategy]["digest"] == alone.mask.digest
    assert WeightMask.load(ranks[1] / "ddp" / "weight_saliency.safetensors").digest == alone.mask.digest


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_held_weights_stay_on_every_strategy(ranks, strategy):
    """SGD with momentum, decay on the mask, clipping, accumulation; saved by the strategy and read from its file."""
    for report in ranks[0]:
        found = report[strategy]
        assert found["drift"] == 0 and found["off"] == 0 and found["on"] > 0.9 * found["ones"]
        assert found["leaked"] > 0, "the check is blind"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_train_the_same_weights(ranks, strategy):
    """Above all the decay inside the mask, which every strategy adds at its own place."""
    for report in ranks[0]:
        assert report[strategy]["far"] < (1e-2 if "bf16" in strategy else 1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_in_mid_epoch_on_every_strategy(ranks, strategy):
    for report in ranks[0]:
        assert report[strategy]["resumed"] == 0 and report[strategy]["asked"] == 0


def test_scores_of_two_ranks_are_those_of_one_process(ranks):
    """37 samples in ragged batches, with padding."""
    for case, (digest, scores) in masks_and_scores(0, 1).items():
        for report in ranks[0]:
            torch.testing.assert_close(torch.tensor(report[case][1]), scores, rtol=1e-5, atol=1e-7)
            assert report[case][0] == digest, case
        assert ranks[0][0][case] == ranks[0][1][case]


def test_shards_select_what_the_whole_does(ranks):
    for report in ranks[0]:
        assert len(report["shards"]) == 5 * len(FORMS)
        assert all(report["shards"].values()), report["shards"]


def test_ranks_without_an_index_are_refused(ranks):
    assert all("the forget batches have no index" in report["no index"] for report in ranks[0])
