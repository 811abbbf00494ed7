"""Whose input gradients show what can be learnt? DiffROAR of our objectives on images with a null block.

    python benchmarks/diff_roar.py          # writes results/diff_roar.json and .png, one process a core
    python benchmarks/diff_roar.py --objectives ERM PGD-AT --data block_fashion_mnist --epochs 3 --write false

Each objective trains a network for each seed. Of the magnitude of the label's input gradient the top or the bottom
pixels are kept, in training and test images; fresh networks train on either, plainly, with one seed for all. DiffROAR
is the accuracy on top pixels less that on bottom ones, the mean over shares kept (Shah et al. 2021). A random map is
the baseline: its DiffROAR is 0 but for noise.

A map of the label can give the label away by the places it keeps. So everything is measured with two fills:

- `mean`, the paper's: removed pixels become the training mean, and the mask can be seen;
- `others`: removed pixels come from another training image, which hides the mask.

`mask only` is the accuracy of networks trained with kept pixels of another image too, at the smaller share: what is
above chance, 0.1, is the mask's. `null block` is the share of the maps' magnitude in the block without information,
half of the image. Both are leaks: of the label into the mask, and of the gradient out of the signal (feature leakage).

Claims of the paper, between networks of one seed; one holds if the mean difference is above the half-width of its 95 %
Student interval: DiffROAR of PGD-AT is above 0; it is above that of ERM; the share in the null block is below ERM's.
"""

import argparse
import logging
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from measure import RESULTS, interval, write_result
from pytorch_lightning import Trainer, seed_everything
from torch import nn

from lightning_rectify.attacks import PGD
from lightning_rectify.attribution import diff_roar, input_gradient
from lightning_rectify.backbones import Backbone, Normalize
from lightning_rectify.callbacks.figures import new_figure
from lightning_rectify.callbacks.saliency_figure import coloured
from lightning_rectify.datamodules import ShardDataModule, signal_block
from lightning_rectify.lightning_modules import Classifier, Cosine
from lightning_rectify.losses import AdversarialTraining, EmpiricalRisk, EnergyWeights, FMix, Mixup, Trades
from lightning_rectify.randomness import keyed_generator

BUDGET = {"eps": 0.15, "step_size": 0.05, "steps": 5}
OBJECTIVES = {  # as in configs/objective but for the budget: these images are easier than CIFAR's
    "ERM": EmpiricalRisk,
    "Mixup": Mixup,
    "FMix": FMix,
    "PGD-AT": lambda: AdversarialTraining(PGD(**BUDGET)),
    "TRADES": lambda: AdversarialTraining(PGD(**BUDGET, start="normal"), Trades(6.0)),
    "WEAT": lambda: AdversarialTraining(PGD(**BUDGET, start="normal"), Trades(7.0, "adversarial"), EnergyWeights()),
}
RANDOM = "random map"
FILLS = {"mean": None, "others": "others"}
KEPT = (0.1, 0.3)


class BlockNet(Backbone):
    """Three convolutions without batch norm and a linear head on the last map: small, and it keeps places."""

    def __init__(self, shape, data, width=16):
        super().__init__()
        self.normalize = Normalize(data.manifest.mean, data.manifest.std)
        layers = [nn.Conv2d(1, width, 3, 1 if shape[0] <= 16 else 2, padding=1), nn.ReLU()]
        for inputs in (width, 2 * width):
            layers += [nn.Conv2d(inputs, 2 * width, 3, 2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            self.classifier = nn.Linear(self.body(torch.zeros(1, 1, *shape)).shape[1], data.classes)

    def features(self, image):
        return self.body(self.normalize(image))

    def head(self, features):
        return self.classifier(features)


def opened(options):
    data = ShardDataModule(options.data, batch_size=64)
    data.prepare_data()
    data.setup()
    return data


def arrays(data, options):
    """Training and test images (N, 1, 2·H, W) in [0, 1] and labels."""
    found = []
    for split, most in (("train", options.samples), ("test", options.samples // 3)):
        chosen = data.ids[split][torch.randperm(len(data.ids[split]), generator=keyed_generator(split))[:most].numpy()]
        found.append((data.images(chosen).float() / 255, torch.as_tensor(data.index.label[chosen])))
    return found


def trained(objective, seed, options):
    """A network trained by one of our objectives, as a user would."""
    seed_everything(seed, verbose=False)
    data = opened(options)
    net = BlockNet((data.manifest.height, data.manifest.width), data)
    module = Classifier(net, OBJECTIVES[objective](), lambda w: torch.optim.AdamW(w, 3e-3, weight_decay=1e-3), Cosine())
    trainer = Trainer(
        accelerator="cpu", max_epochs=options.epochs, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data)
    return net.eval()


def accuracy(net, images, label):
    with torch.no_grad():
        return (net(images).argmax(1) == label).float().mean().item()


def retrainer(data, label, options):
    """`images -> accuracy` of a fresh network: always the same starting weights and order."""

    def train(images):
        torch.manual_seed(1000)
        net = BlockNet(images.shape[2:], data)
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-3)
        steps = options.retrain_epochs * (len(images) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(options.retrain_epochs):
            for places in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
                loss = F.cross_entropy(net(images[places]), label[places])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return lambda x, y: accuracy(net, x, y)

    return train


def study(task):
    """Everything measured of one objective and seed, and a few maps for the picture."""
    objective, seed, options = task
    quiet()
    start = time.perf_counter()
    data = opened(options)
    (images, label), (test, test_label) = arrays(data, options)
    row = {"objective": objective, "seed": seed}
    if objective == RANDOM:
        maps, test_maps = (
            torch.rand(len(x), *x.shape[2:], generator=keyed_generator("random map", seed, place))
            for place, x in enumerate((images, test))
        )
    else:
        net = trained(objective, seed, options)
        maps, test_maps = input_gradient(net, images, label), input_gradient(net, test, test_label)
        attack = PGD(BUDGET["eps"], BUDGET["eps"] / 4, 10)
        attacked = attack(net, test, test_label, generator=keyed_generator("test")).image
        row |= {"accuracy": accuracy(net, test, test_label), "pgd10": accuracy(net, attacked, test_label)}
    outside = test_maps.abs() * ~signal_block(test)
    row["null_block"] = (outside.sum((1, 2)) / test_maps.abs().sum((1, 2)).clamp_min(1e-12)).mean().item()
    common = (images, maps, retrainer(data, label, options), test, test_maps, test_label)
    for name, fill in FILLS.items():
        found = diff_roar(*common, kept=KEPT, fill=fill)
        mask = diff_roar(*common, kept=KEPT[:1], fill=fill, mask_only=True)
        row[f"{name}_diff_roar"] = found.score
        for end in ("top", "bottom"):
            row[f"{name}_{end}"] = sum(getattr(found, end)) / len(KEPT)
            row[f"{name}_{end}_mask_only"] = getattr(mask, end)[0]
    row = {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}
    print(row, f"{time.perf_counter() - start:.0f} s", flush=True)
    return row, test[:8, 0].numpy(), test_maps[:8].numpy()


def quiet():
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)


def verdicts(rows):
    """What became of the claims, by fill."""
    by = {(row["objective"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    claims = {}
    for fill in FILLS:
        claims[f"DiffROAR of PGD-AT is above 0, fill {fill}"] = [by["PGD-AT", s][f"{fill}_diff_roar"] for s in seeds]
        claims[f"DiffROAR of PGD-AT is above that of ERM, fill {fill}"] = [
            by["PGD-AT", s][f"{fill}_diff_roar"] - by["ERM", s][f"{fill}_diff_roar"] for s in seeds
        ]
    claims["share in the null block is below that of ERM"] = [
        by["ERM", s]["null_block"] - by["PGD-AT", s]["null_block"] for s in seeds
    ]
    found = {}
    for claim, values in claims.items():
        difference = interval(values)
        holds = difference["mean"] > difference["half_interval"]
        found[claim] = {"holds": "holds" if holds else "FAILED", "difference": difference}
        print(f"{found[claim]['holds']}: {claim}: {difference['mean']:+.4f} ± {difference['half_interval']:.4f}")
    return found


def table(rows, columns):
    """Means and intervals by objective of columns {title: key}."""
    names = list(dict.fromkeys(row["objective"] for row in rows))
    return {
        name: {
            title: interval([row[key] for row in rows if row["objective"] == name], 4)
            for title, key in columns.items()
            if key in next(row for row in rows if row["objective"] == name)
        }
        for name in names
    }


def picture(studies):
    """Images of the first seed above each objective's maps."""
    first = [(row["objective"], maps) for row, _, maps in studies if row["seed"] == 0 and row["objective"] != RANDOM]
    figure = new_figure(6.4, 0.4 + 1.15 * (1 + len(first)))
    axes = figure.subplots(1 + len(first), 8)
    for line, (title, maps) in zip(axes, [("image", None), *first], strict=True):
        scale = None if maps is None else float(np.quantile(maps, 0.999))
        for place, ax in enumerate(line):
            shown = (
                studies[0][1][place] if maps is None else coloured(torch.from_numpy(maps[place : place + 1]), scale)[0]
            )
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    figure.suptitle("Input gradients of the label; one block of each image says nothing", fontsize=9)
    figure.subplots_adjust(left=0.12, right=0.99, bottom=0.01, top=0.95, wspace=0.05, hspace=0.06)
    figure.savefig(RESULTS / "diff_roar.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="block_digits", choices=("block_digits", "block_fashion_mnist"))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--retrain_epochs", type=int, default=12)
    parser.add_argument("--samples", type=int, default=10_000, help="training images that are explained and trained on")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--write", default="true", choices=("true", "false"))
    options = parser.parse_args()
    quiet()
    start = time.perf_counter()
    opened(options)  # builds the shards once
    # the dear ones first, so that no process waits for the last
    objectives = sorted(options.objectives, key=lambda name: list(OBJECTIVES).index(name), reverse=True)
    tasks = [(name, seed, options) for name in [*objectives, RANDOM] for seed in range(options.seeds)]
    if options.processes > 1:
        with ProcessPoolExecutor(options.processes, multiprocessing.get_context("fork")) as pool:
            studies = list(pool.map(study, tasks))
    else:
        studies = [study(task) for task in tasks]
    order = [*OBJECTIVES, RANDOM]
    studies.sort(key=lambda found: (order.index(found[0]["objective"]), found[0]["seed"]))
    rows = [row for row, _, _ in studies]
    whole = {"accuracy": "accuracy", "pgd10": "pgd10", "null block": "null_block"}
    by_fill = {
        fill: {name: f"{fill}_{name.replace(' ', '_')}"
               for name in ("diff roar", "top", "bottom", "top mask only", "bottom mask only")}
        for fill in FILLS
    }  # fmt: skip
    result = {
        "data": options.data,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "retrain_epochs": options.retrain_epochs,
        "eps": BUDGET["eps"],
        "kept": list(KEPT),
        "seconds": round(time.perf_counter() - start),
    }
    if {"ERM", "PGD-AT"} <= set(options.objectives) and options.seeds > 1:
        result["claims"] = verdicts(rows)
    if options.seeds > 1:
        result["networks"] = table(rows, whole)
        result |= {f"fill {fill}": table(rows, columns) for fill, columns in by_fill.items()}
    result["runs"] = rows
    if options.write == "true":
        write_result("diff_roar", result)
        picture(studies)


if __name__ == "__main__":
    main()
