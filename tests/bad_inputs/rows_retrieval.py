"""Mistakes in retrieval of unseen classes."""

from table import FIT, Row, write

GLYPHS = ("fit", "-c", "tcm_glyphs", "--trainer.enable_progress_bar", "false", "--trainer.fast_dev_run", 1)
SMALL = (
    "--data.build",
    "{options: {max_classes: 12, min_fonts: 12, size: 16}}",
    "--data.size",
    16,
    "--data.classes",
    60,
)
ROWS = [
    Row("unknown module", (*FIT, "--module", "Retreiver"), ("module is 'Retreiver'", "Did you mean Retriever?")),
    Row("module of the operating system", (*FIT, "--module", "os.PathLike"), ("module: os.PathLike", "--allow")),
    Row("module in a file", (*FIT, "-c", "a.yaml"), ("'Clasifier'", "Did you mean Classifier?"),
        write("a.yaml", "module: Clasifier\n")),
    Row("option of another module", (*FIT, "--model.calibrate_far", 0.1), ("model.calibrate_far is no option",)),
    Row("retriever without an objective", (*FIT, "--module", "Retriever", "--model.objective", "null"), ("objective",)),
    Row("classification on an embedding", (*GLYPHS, "-c", "objective/empirical_risk", "--data.build",
        "{options: {max_classes: 80, min_fonts: 12, size: 24}}", "--data.classes", 355),
        ("EmpiricalRisk classifies", "of 64 numbers", "use MetricLearning")),
    Row("rate in percent", (*GLYPHS, "--model.calibrate_far", 5), ("model.calibrate_far is 5", "(0, 1)")),
    Row("range upside down", (*GLYPHS, "--model.far", "[0.1, 0.01]"), ("FAR range", "0.01")),
    Row("margin beyond a cosine", (*GLYPHS, "-c", "a.yaml"), ("positive_margin is 1.9",),
        write("a.yaml", "model: {objective: {init_args: {regularizers: [{class_path: ThresholdConsistentMargin, "
                        "init_args: {positive_margin: 1.9}}]}}}\n")),
    Row("batch that is not P x K", (*GLYPHS, "--data.batch_size", 30), ("data.batch_size is 30", "28")),
    Row("one sample a class", (*GLYPHS, "--data.sampler.samples_per_class", 1), ("samples_per_class is 1",)),
    Row("more classes than there are", (*GLYPHS, *SMALL, "--data.batch_size", 128), ("needs 32 classes", "has 12")),
    Row("unknown glyph option", (*GLYPHS, "--data.build", "{options: {sise: 16}}"), ("sise", "Did you mean size?")),
    Row("script without letters", (*GLYPHS, "--data.build", "{options: {test_scripts: [KLINGON]}}"),
        ("KLINGON", "GREEK")),
    Row("folder without fonts", (*GLYPHS, "--data.build", "{options: {fonts: shards}}"), ("shards holds no .ttf",)),
    Row("archive that is not there", (*GLYPHS, "--data.source", "cub", "--data.build", "{source: 'cub:shards'}"),
        ("cub:shards is not the unpacked archive",)),
    Row("recall floor in percent", (*GLYPHS, "--trainer.callbacks+={class_path: ThresholdConsistency, init_args: "
        "{recall_floor: 80}}"), ("recall_floor is 80",)),
]  # fmt: skip
