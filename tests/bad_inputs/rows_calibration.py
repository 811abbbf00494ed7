"""Mistakes in calibration, its observers and label noise."""

from table import FIT, Row

CALIBRATE = ("calibrate", *FIT[1:])
NOISE = ("--data.label_noise", "LabelNoise")

ROWS = [
    Row("calibrate untrained weights", CALIBRATE, ("calibrate", "untrained", "--ckpt_path")),
    Row("calibrate with an unknown map", (*CALIBRATE, "--ckpt_path", "base.ckpt", "--maps", "[temprature]"),
        ("maps", "Did you mean temperature?")),
    Row("calibrate by ECE", (*CALIBRATE, "--ckpt_path", "base.ckpt", "--score", "ece"),
        ("score is 'ece'", "nll or brier")),
    Row("noise of everything", (*FIT, *NOISE, "--data.label_noise.rate", 1.0), ("rate is 1.0", "[0, 1)")),
    Row("noise of unknown kind", (*FIT, *NOISE, "--data.label_noise.rate", 0.1, "--data.label_noise.to", "near"),
        ("to is 'near'", "fixed or uniform")),
    Row("noise rates of another set", (*FIT, *NOISE, "--data.label_noise.rate", "[0.1, 0.2]"),
        ("2 rates", "10 classes")),
    Row("collapse without a panel", (*FIT, "--trainer.callbacks+={class_path: NeuralCollapse, init_args: {panel: 1}}"),
        ("panel is 1", "at least 2")),
    Row("scores of no epoch", (*FIT, "--trainer.callbacks+={class_path: ExampleScores, init_args: {epochs: 0}}"),
        ("epochs is 0", "at least 1")),
    Row("report with one bin", (*FIT, "--trainer.callbacks+={class_path: CalibrationReport, init_args: {bins: 1}}"),
        ("bins is 1", "at least 2")),
    Row("report beside a run that is not there",
        (*FIT, "--trainer.callbacks=[{class_path: CalibrationReport, init_args: {compare_with: {erm: runs/nowhere}}}]"),
        ("compare_with.erm", "runs/nowhere does not exist", "give a run folder")),
    Row("scores in an unknown format",
        (*FIT, "--trainer.callbacks+={class_path: ExampleScores, init_args: {file: scores.xlsx}}"),
        ("file is 'scores.xlsx'", ".csv or .parquet")),
]  # fmt: skip
