"""What mixing and post-hoc maps do to calibration when classes overlap; each claim is printed as holds or FAILED.

    python benchmarks/claims_calibration.py          # writes results/claims_calibration.json and .png

A two-layer net on 3,000 Fashion-MNIST images, plain or under Mixup. Class overlap is label noise to one fixed other
class in train, val and test alike, so that the test labels come from the distribution that was trained on. The
temperature is fitted on val. Three seeds or more; differences are of runs with one seed, with 95 % Student intervals.

Claims (Chidambaram and Ge 2024; Zou et al. 2023; Fisher, Meng and Papyan 2024; the last is ours):
1. under overlap Mixup has a lower ECE than ERM + temperature scaling, and the difference grows with the overlap;
2. Mixup stopped at half of training has no higher test error than Mixup to the end;
3. label weights drawn apart from the image weights cost no more test error than noise;
4. different-class mixes are longer than the ends and leave their plane (channels), same-class mixes do not move;
5. h-calibration has no higher ECE and class-wise ECE than temperature scaling;
6. each post-hoc map lowers the test NLL of an over-confident net.
"""

import argparse
import math
import time
import warnings

import torch
from measure import RESULTS, write_result
from scipy.stats import t as student
from torch import nn

from lightning_rectify.backbones import Backbone
from lightning_rectify.calibration import TemperatureScaling, compare_maps
from lightning_rectify.calibration.selection import MAPS
from lightning_rectify.callbacks.collapse_figure import draw_collapse
from lightning_rectify.callbacks.figures import new_figure
from lightning_rectify.datamodules import LabelNoise, ShardDataModule, bayes_error, two_gaussians
from lightning_rectify.losses import mixup
from lightning_rectify.metrics import (
    CalibrationSums,
    ClassMoments,
    MixGeometry,
    collapse_scores,
    nearest_mean_disagreement,
)
from lightning_rectify.metrics.mix_geometry import LAMBDAS
from lightning_rectify.randomness import keyed_generator

OVERLAPS = (0.0, 0.2, 0.4)
GAPS = (0.25, 0.1, 0.05)
TRAIN, BATCH, EPOCHS = 3000, 100, 40


class Net(Backbone):
    def __init__(self, pixels, classes, width=64):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 384), nn.ReLU(), nn.Linear(384, width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)

    def features(self, image):
        return self.body(image)

    def head(self, features):
        return self.classifier(features)


def train(image, label, classes, seed, alpha=0.0, stop=1.0, label_rule="same", epochs=EPOCHS):
    """A net trained with Adam; Mixup up to the share `stop` of training if alpha is above 0."""
    torch.manual_seed(seed)
    net = Net(image[0].numel(), classes)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for epoch in range(epochs):
        generator = keyed_generator("claims", seed, epoch)
        for pick in torch.randperm(len(label), generator=generator).split(BATCH):
            x, y = image[pick], label[pick]
            if alpha and epoch < stop * epochs:
                x, target = mixup(x, y, alpha, label_rule=label_rule, generator=generator)
                loss = target.loss(net(x))
            else:
                loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def scores(logits, label):
    sums = CalibrationSums(logits.shape[1])
    sums.update(logits, label)
    found = {name: float(value) for name, value in sums.compute().scores.items()}
    return {**found, "error": float(logits.argmax(1).ne(label).double().mean())}


def fashion(overlap):
    """Images (float) and noisy labels of the three splits: 3,000, 5,000 and 10,000."""
    noise = LabelNoise(overlap, splits=("train", "val", "test"))
    data = ShardDataModule("fashion_mnist", cache="none")
    data.prepare_data()
    data.setup()
    label = noise.apply(data.index, data.ids, data.classes).label
    parts = {}
    for split, count in (("train", TRAIN), ("val", 5000), ("test", 10_000)):
        ids = data.ids[split]
        ids = ids[:: max(1, len(ids) // count)][:count]
        parts[split] = data.images(ids).float() / 255, torch.from_numpy(label[ids])
    return parts


def gaussians(gap, seed):
    image, label = two_gaussians(5000, gap, seed=seed)
    test = two_gaussians(10_000, gap, seed=1000 + seed)
    return {"train": (image[:3000], label[:3000]), "val": (image[3000:], label[3000:]), "test": test}


def overlap_row(parts, classes, seed, epochs):
    """ECE of ERM, ERM + temperature and Mixup on one data set."""
    with torch.no_grad():
        nets = {}
        for name, alpha in (("erm", 0.0), ("mixup", 1.0)):
            with torch.enable_grad():
                nets[name] = train(*parts["train"], classes, seed, alpha, epochs=epochs)
        logits = {(name, split): net(parts[split][0]) for name, net in nets.items() for split in ("val", "test")}
        label = parts["test"][1]
        scaling = TemperatureScaling(classes).fit(logits["erm", "val"], parts["val"][1])
        rows = {
            "erm": scores(logits["erm", "test"], label),
            "erm_temperature": scores(scaling(logits["erm", "test"]), label),
            "mixup": scores(logits["mixup", "test"], label),
        }
    return rows, nets, logits


def interval(values):
    values = torch.tensor(values, dtype=torch.float64)
    half = student.ppf(0.975, len(values) - 1) * float(values.std()) / math.sqrt(len(values))
    return {"mean": round(float(values.mean()), 5), "half_interval": round(half, 5)}


def geometry_of(net, image, label):
    """Scores and figure of mixed training examples."""
    moments, geometry, rows = ClassMoments(10, 64), MixGeometry(), []
    weight = net.classifier.weight.detach()
    with torch.no_grad():
        features = net.features(image)
        moments.update(features, label)
        every = torch.ones(10, dtype=torch.bool)
        nc4 = nearest_mean_disagreement(features, net.head(features), moments.means, every).double().mean()
        image, label = image[:1000], label[:1000]
        order = label.argsort(stable=True)
        shuffled = torch.randperm(len(label), generator=keyed_generator("pairs"))
        other, within = torch.empty_like(order), torch.empty_like(order)
        other[shuffled] = shuffled.roll(1)  # a cycle: no sample is mixed with itself
        within[order] = order.roll(-1)
        other[::2] = within[::2]
        first, second = label, label[other]
        for place in range(LAMBDAS):
            lam = place / (LAMBDAS - 1)
            features = net.features(lam * image + (1 - lam) * image[other])
            geometry.update(features, first, second, place, weight)
            lams = torch.full((len(label), 1), lam)
            rows.append(torch.cat((first[:, None].float(), second[:, None].float(), lams, features), 1))
    found = collapse_scores(moments, weight) | {"nc4": nc4} | geometry.scores()
    return {name: float(value) for name, value in found.items()}, draw_collapse, (
        torch.cat(rows), weight, geometry, found)  # fmt: skip


def verdict(claim, holds, text):
    print(f"{'holds' if holds else 'FAILED'}: {claim}: {text}", flush=True)
    return {"claim": claim, "holds": bool(holds), "measured": text}


def overlap_claim(name, levels, table):
    """Claim 1 for one family of data, from the least to the most overlap."""
    gaps = {str(level): [r["erm_temperature"][ECE] - r["mixup"][ECE] for r in table[level]] for level in levels}
    means = {level: interval(values) for level, values in gaps.items()}
    overlapping = [str(level) for level in levels[1:]]
    wins = all(means[level]["mean"] > 0 for level in overlapping)
    grows = means[overlapping[-1]]["mean"] > means[str(levels[0])]["mean"]
    text = ", ".join(f"{level}: {row['mean']:+.4f} ± {row['half_interval']:.4f}" for level, row in means.items())
    return verdict(f"overlap, {name}", wins and grows, f"ECE of ERM + temperature less that of Mixup at {text}")


ECE = "ece_top_label_l1"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start, verdicts, seeds = time.perf_counter(), [], range(options.seeds)

    tables, clean = {}, []
    for overlap in OVERLAPS:
        parts = fashion(overlap)
        tables[overlap] = []
        for seed in seeds:
            rows, nets, logits = overlap_row(parts, 10, seed, options.epochs)
            tables[overlap].append(rows)
            if overlap == 0:
                clean.append((parts, nets, logits))
        print(overlap, {k: round(v[ECE], 4) for k, v in tables[overlap][0].items()}, flush=True)
    verdicts.append(overlap_claim("Fashion-MNIST with label noise", OVERLAPS, tables))

    gauss = {gap: [] for gap in GAPS}
    for gap in GAPS:
        for seed in seeds:
            gauss[gap].append(overlap_row(gaussians(gap, seed), 2, seed, options.epochs // 3)[0])
    verdicts.append(overlap_claim("two Gaussians, by gap", GAPS, gauss))

    stopped, apart = [], []
    for seed, (parts, _, _) in zip(seeds, clean, strict=True):
        test_image, test_label = parts["test"]
        full = tables[0.0][seed]["mixup"]["error"]
        for kind, found in (({"stop": 0.5}, stopped), ({"label_rule": "independent"}, apart)):
            net = train(*parts["train"], 10, seed, 1.0, epochs=options.epochs, **kind)
            with torch.no_grad():
                found.append(scores(net(test_image), test_label)["error"] - full)
    early, decoupled = interval(stopped), interval(apart)
    text = "test error less that of full Mixup {mean:+.4f} ± {half_interval:.4f}"
    verdicts.append(verdict("early-stopped Mixup", early["mean"] <= 0, text.format(**early)))
    noise = decoupled["mean"] <= decoupled["half_interval"]
    verdicts.append(verdict("decoupled label weights", noise, text.format(**decoupled)))

    geometry = {}
    for name in ("erm", "mixup"):
        geometry[name], draw, drawn = geometry_of(clean[0][1][name], *clean[0][0]["train"])
        title = f"mixed training examples of Fashion-MNIST, {name}"
        draw(*drawn, title).savefig(RESULTS / f"neural_collapse_{name}.png", dpi=120)
    found = geometry["mixup"]
    channels = found["mix_amplification"] > 1 and found["mix_off_plane"] > 0.1 and found["mix_same_spread"] < 0.05
    measured = ", ".join(f"{key} {found[key]:.3f}" for key in found if key.startswith("mix"))
    verdicts.append(verdict("channels under Mixup", channels, measured))

    maps = {name: [] for name in MAPS}
    before = []
    for parts, _, logits in clean:
        fitted = {name: make(10).fit(logits["erm", "val"], parts["val"][1]) for name, make in MAPS.items()}
        rows = compare_maps(fitted, logits["erm", "test"], parts["test"][1])
        before.append(rows.pop("none"))
        for name, row in rows.items():
            maps[name].append(row)
    post = {"none": before, **maps}
    table = {
        name: {key: interval([row[key] for row in rows]) for key in ("nll", ECE, "ece_class_wise_l1", "accuracy")}
        for name, rows in post.items()
    }
    for key, label in ((ECE, "ECE"), ("ece_class_wise_l1", "class-wise ECE")):
        pairs = zip(maps["h_calibration"], maps["temperature"], strict=True)
        less = interval([own[key] - other[key] for own, other in pairs])
        text = f"{label} less that of temperature scaling {less['mean']:+.4f} ± {less['half_interval']:.4f}"
        verdicts.append(verdict(f"h-calibration, {label}", less["mean"] <= 0, text))
    for name in MAPS:
        lower = [row["nll_lower_than_before"] for row in maps[name]]
        first, last = (table[key]["nll"]["mean"] for key in ("none", name))
        text = f"{first:.4f} to {last:.4f}, {sum(lower)} of {len(lower)} seeds"
        verdicts.append(verdict(f"{name} lowers NLL", all(lower), text))

    picture(tables, gauss)
    columns = ("error", ECE, "ece_top_label_smooth", "signed_gap", "nll")

    def summary(table):
        return {
            f"{level}, {name}": {key: interval([row[name][key] for row in rows]) for key in columns}
            for level, rows in table.items()
            for name in ("erm", "erm_temperature", "mixup")
        }

    write_result(
        "claims_calibration",
        {
            **vars(options),
            "train_samples": TRAIN,
            "seconds": round(time.perf_counter() - start),
            "failed": [row["claim"] for row in verdicts if not row["holds"]] or "none",
            "verdicts": {row["claim"]: {"holds": row["holds"], "measured": row["measured"]} for row in verdicts},
            "label_noise": summary(tables),
            "two_gaussians": summary(gauss),
            "bayes_error_of_the_gaussians": {str(gap): round(bayes_error(gap, 300), 4) for gap in GAPS},
            "post_hoc_on_fashion_mnist": table,
            "geometry": {name: {k: round(v, 4) for k, v in row.items() if v == v} for name, row in geometry.items()},
        },
    )


def picture(tables, gauss):
    figure = new_figure(8.6, 3.8)
    panels = figure.subplots(1, 2, sharey=False)
    figure.subplots_adjust(left=0.085, right=0.98, bottom=0.15, top=0.82, wspace=0.22)
    for axes, table, label in (
        (panels[0], tables, "share of labels moved to another class"),
        (panels[1], gauss, "gap of the two Gaussians (less is more overlap)"),
    ):
        levels = list(table)
        for name, colour, title in (
            ("erm", "#8d99ae", "ERM"),
            ("erm_temperature", "#2a6f97", "ERM + temperature"),
            ("mixup", "#c8553d", "Mixup"),
        ):
            values = [[row[name][ECE] for row in table[level]] for level in levels]
            place = range(len(levels))
            axes.plot(place, [sum(v) / len(v) for v in values], color=colour, marker="o", markersize=4, label=title)
            for x, own in zip(place, values, strict=True):
                axes.scatter([x] * len(own), own, 10, color=colour, alpha=0.5, linewidths=0)
        axes.set_xticks(range(len(levels)), [str(level) for level in levels])
        axes.set(xlabel=label, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8.5)
    panels[0].set_ylabel("ECE on test (top-label, L1)")
    panels[0].legend(fontsize=8.5, frameon=False)
    figure.text(0.02, 0.94, "Calibration when classes overlap", fontsize=11.5, va="center")
    figure.text(0.02, 0.875, "a dot a seed, lines through the means", fontsize=8.5, va="center", color="#444444")
    figure.savefig(RESULTS / "claims_calibration.png", dpi=130)


if __name__ == "__main__":
    main()
