"""Each mixing objective against plain training on the handwritten digits, in the quickstart's setting.

    python benchmarks/digits.py --seeds 5         # writes results/digits.json

The split is fixed; the seed moves the starting weights, the order and the draws. Reported: mean and 95 % interval over
seeds (Student's t) on the test split, of the epoch that was best on the validation split.
"""

import argparse
import tempfile
import warnings

import torch
from measure import interval, write_result
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks import CalibrationReport
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.lightning_modules import Classifier, Cosine
from lightning_rectify.losses import Alternate, CutMix, DirichletMixup, EmpiricalRisk, FMix, ManifoldMixup, Mixup

OBJECTIVES = {
    "EmpiricalRisk": EmpiricalRisk,
    "Mixup": Mixup,
    "Mixup, stopped at half": lambda: Mixup(stop=0.5),
    "CutMix": CutMix,
    "FMix": FMix,
    "ManifoldMixup": ManifoldMixup,
    "DirichletMixup, d 3": lambda: DirichletMixup(d=3),
    "Alternate Mixup, FMix": lambda: Alternate([Mixup(), FMix()]),
}
SCORES = ("accuracy", "ece_top_label_l1", "signed_gap", "nll", "brier")


def optimizer(weights):
    return torch.optim.AdamW(weights, 3e-3, weight_decay=0.05)


def run(make, seed):
    """Train with one seed; return the test scores by name."""
    seed_everything(seed, verbose=False)
    backbone = ResNet(10, channels=1, depth=8, width=32, mean=[0.3], std=[0.38])
    module = Classifier(backbone, make(), optimizer, Cosine(warmup=0.1))
    data = ShardDataModule("digits", batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        report = CalibrationReport(figure_every_n_epochs=10_000)
        best = ModelCheckpoint(folder, monitor="val/accuracy", mode="max")
        trainer = Trainer(
            accelerator="cpu", max_epochs=40, logger=False, callbacks=[report, best], default_root_dir=folder,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, data)
        (scores,) = trainer.test(module, data, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    return {name: scores[f"test/{name}"] for name in SCORES}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    table = {}
    for name, make in OBJECTIVES.items():
        runs = [run(make, seed) for seed in range(seeds)]
        table[name] = {}
        for score in SCORES:
            table[name][score] = interval([scores[score] for scores in runs], digits=4)
        print(name, {score: table[name][score]["mean"] for score in SCORES}, flush=True)
    write_result("digits", {"seeds": seeds, "epochs": 40, "test_samples": 269, "objectives": table})


if __name__ == "__main__":
    main()
