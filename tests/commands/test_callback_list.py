"""Callbacks that several configs list."""

from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint

from lightning_rectify.attacks import PGD
from lightning_rectify.callbacks import CalibrationReport, RobustnessReport
from lightning_rectify.commands.callback_list import last_of_a_kind

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def test_a_later_callback_replaces_an_earlier_one_of_the_same_state_key():
    first, second = CalibrationReport(bins=5), CalibrationReport(bins=7)
    monitors = [LearningRateMonitor(), LearningRateMonitor()]
    checkpoints = [ModelCheckpoint(monitor=name) for name in ("val/nll", "val/brier", "val/nll")]
    reports = [RobustnessReport(), RobustnessReport(PGD(0.5, 0.1, 3, "l2"))]
    kept = last_of_a_kind([first, *monitors, *checkpoints, *reports, second])
    assert kept == [*monitors, *checkpoints[1:], *reports, second]
    assert last_of_a_kind(None) == [] and last_of_a_kind(first) == [first]


def test_a_config_changes_the_options_of_a_callback_that_another_lists(command, caplog):
    (command.folder / "bins.yaml").write_text(
        "trainer:\n  callbacks+:\n    - class_path: CalibrationReport\n      init_args: {bins: 7}\n"
    )
    ended = command("fit", "-c", "quickstart", "-c", "bins.yaml", "--trainer.fast_dev_run", "true", *QUIET)
    assert ended.code == 0, ended.lines
    assert "the later CalibrationReport replaces the earlier one" in caplog.text
