"""Which validations are drawn, and which moment of training a figure says it shows, with real trainers."""

import pytest
import torch
from foreign import Data, Foreign, trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rectify.callbacks import CalibrationReport, SaliencyMaps


def report(every):
    return CalibrationReport(figure_every_n_epochs=every)


def maps(every):
    return SaliencyMaps(samples=2, methods=("input_gradient",), every_n_epochs=every)


def drawn(folder):
    """The epochs with figures; with one step an epoch epoch e is validated after step e + 1."""
    return sorted({int(path.stem.removeprefix("step_")) - 1 for path in folder.rglob("val_*/*.png")})


@pytest.mark.parametrize("build", [report, maps])
@pytest.mark.parametrize(
    ("every", "options", "expected"),
    [
        (13, {"max_epochs": 40}, [0, 13, 26, 39]),
        (2, {"max_epochs": 6, "check_val_every_n_epoch": 2}, [1, 3, 5]),
        (3, {"max_epochs": 8, "check_val_every_n_epoch": 2}, [1, 5, 7]),
        (100, {"max_epochs": 4}, [0, 3]),
        (100, {"max_epochs": 7, "check_val_every_n_epoch": 3}, [2, 5]),  # epoch 6 is not validated
        (100, {"max_epochs": -1, "max_steps": 4}, [0, 3]),
    ],
)
def test_which_validations_are_drawn(tmp_path, build, every, options, expected):
    run = trainer(tmp_path, build(every), limit_val_batches=1, num_sanity_val_steps=1, **options)
    run.fit(Foreign(), Data(train=32))
    assert drawn(tmp_path) == expected


@pytest.mark.parametrize("build", [report, maps])
def test_a_resumed_training_draws_what_an_uninterrupted_one_does(tmp_path, build):
    def run(epochs):
        save = ModelCheckpoint(tmp_path / "saved", save_last=True)
        return trainer(
            tmp_path, build(4), save, enable_checkpointing=True, limit_val_batches=1, max_epochs=epochs
        ), save

    first, save = run(10)
    first.limit_train_batches = 1
    data, seen = Data(train=32), []

    class Stops(Foreign):
        def on_train_epoch_end(self):
            seen.append(self.current_epoch)
            self.trainer.should_stop = self.current_epoch == 5

    first.fit(Stops(), data)
    assert drawn(tmp_path) == [0, 4]
    second, _ = run(10)
    second.fit(Foreign(), data, ckpt_path=save.last_model_path, weights_only=True)
    assert drawn(tmp_path) == [0, 4, 8, 9]
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints of epochs 0 and 1, after 8 and 16 steps."""
    folder = tmp_path_factory.mktemp("trained")
    save = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    run = trainer(folder, save, CalibrationReport(), SaliencyMaps(samples=2), enable_checkpointing=True)
    run.fit(Foreign(), Data())
    return folder


def test_figures_of_a_checkpoint_say_its_epoch_and_step(tmp_path, monkeypatch, checkpoints):
    titles = []
    for name, place in (("calibration_report.draw_reliability", 1), ("saliency_maps.draw_saliency", -1)):
        path = f"lightning_rectify.callbacks.{name}"
        module, _, function = path.rpartition(".")
        original = getattr(__import__(module, fromlist=[function]), function)
        monkeypatch.setattr(
            path, lambda *args, original=original, place=place: (titles.append(args[place]), original(*args))[1]
        )
    run = trainer(tmp_path, CalibrationReport(), SaliencyMaps(samples=2))
    for epoch, steps in ((0, 8), (1, 16)):
        path = str(checkpoints / f"epoch={epoch}.ckpt")
        run.test(Foreign(), Data(), ckpt_path=path, verbose=False, weights_only=True)
        assert (tmp_path / "figures" / "test_reliability" / f"step_{steps:08d}.png").is_file()
        assert titles.pop() == f"test, epoch {epoch}, step {steps}"
        run.validate(Foreign(), Data(), ckpt_path=path, verbose=False, weights_only=True)
        assert (tmp_path / "figures" / "val_saliency" / f"step_{steps:08d}.png").is_file()
        assert [f"epoch {epoch}, step {steps}" in title for title in titles] == [True, True]
        titles.clear()
    run.test(Foreign(), Data(), verbose=False)  # weights that come from no checkpoint
    assert titles == ["test, epoch 0, step 0"]


def test_a_test_after_training_says_the_moment_of_what_it_tests(tmp_path):
    torch.manual_seed(0)
    save = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", save_top_k=-1)
    run = trainer(tmp_path, save, CalibrationReport(), enable_checkpointing=True)
    net = Foreign()
    run.fit(net, Data())
    run.test(net, Data(), ckpt_path=str(tmp_path / "saved" / "epoch=0.ckpt"), verbose=False, weights_only=True)
    run.test(net, Data(), verbose=False)
    names = sorted(path.name for path in (tmp_path / "figures" / "test_reliability").iterdir())
    assert names == ["step_00000008.png", "step_00000016.png"]
