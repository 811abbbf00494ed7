"""Mistakes in the imbalance of training data."""

from table import FIT, Row

STEP = (*FIT, "-c", "data/step_imbalance")
TAIL = (*FIT, "-c", "data/long_tail")

ROWS = [
    Row("imbalance of nothing", (*STEP, "--data.imbalance.ratio", 0), ("imbalance", "ratio is 0", "in (0, 1]")),
    Row("imbalance the wrong way round", (*TAIL, "--data.imbalance.ratio", 10), ("ratio is 10", "in (0, 1]")),
    Row("all classes in the tail", (*STEP, "--data.imbalance.tail", 1), ("tail is 1", "in (0, 1)")),
    Row("no class in the tail", (*STEP, "--data.imbalance.tail", 0.01), ("0 of 10 classes", "head")),
    Row("a class left empty", (*TAIL, "--data.imbalance.ratio", 0.001), ("of class 7", "raise the ratio")),
    Row("imbalance of a stream", (*STEP, "--data.source", "shards/shard-{000000..000000}.tar"),
        ("data.imbalance", "no index")),
]  # fmt: skip
