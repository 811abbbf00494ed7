"""What mixing does to calibration when classes overlap; each claim is printed as holds or FAILED.

    python benchmarks/claims_calibration.py          # writes results/claims_calibration.json and .png

A two-layer net on 3,000 Fashion-MNIST images, plain or under Mixup. Class overlap is label noise to one fixed other
class in train, val and test alike, so that the test labels come from the distribution that was trained on. The
temperature is fitted on val. Three seeds or more; differences are of runs with one seed, with 95 % Student intervals.

Claims (Chidambaram and Ge 2024; Zou et al. 2023; Fisher, Meng and Papyan 2024):
1. under overlap Mixup has a lower ECE than ERM + temperature scaling, and the difference grows with the overlap;
2. Mixup stopped at half of training has no higher test error than Mixup to the end;
3. label weights drawn apart from the image weights cost no more test error than noise;
4. different-class mixes are longer than the ends and leave their plane (channels), same-class mixes do not move.
"""

import argparse
import time
import warnings

import torch
from measure import RESULTS, interval, write_result
from small_nets import EPOCHS, TRAIN, fashion, gaussians, train

from lightning_rectify.calibration import TemperatureScaling
from lightning_rectify.callbacks.collapse_figure import draw_collapse
from lightning_rectify.callbacks.figures import new_figure
from lightning_rectify.datamodules import bayes_error
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


def scores(logits, label):
    sums = CalibrationSums(logits.shape[1])
    sums.update(logits, label)
    found = {name: float(value) for name, value in sums.compute().scores.items()}
    return {**found, "error": float(logits.argmax(1).ne(label).double().mean())}


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
