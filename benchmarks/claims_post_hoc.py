"""What post-hoc maps do to over-confident nets on Fashion-MNIST and CIFAR-10; each claim is printed as holds or FAILED.

    python benchmarks/claims_post_hoc.py --cifar10 FILE.npz [--cache FOLDER]      # writes results/claims_post_hoc.json

Nets that know their training images by heart, three seeds or more: two layers on 3,000 Fashion-MNIST images, three
convolutions on 10,000 CIFAR-10 images. The 10,000 test images are dealt into halves; every map is fitted on one half
and scored on the other, both ways, and the two scores are averaged. So what is fitted on and what is scored come from
one distribution, which the validation split, a part of the training images, and the test split do not quite do.
Differences are of maps on the same logits, with 95 % Student intervals over the seeds.

Claims (the first after h-calibration, 2025; the second is ours):
1. h-calibration has no higher ECE and class-wise ECE than temperature scaling;
2. each post-hoc map lowers the NLL of an over-confident net.

Beside them stands what a difference can mean: the half-width of the bootstrap interval of one ECE, and the ECE that
labels drawn from the scaled probabilities themselves would give, which no map could lower.
"""

import argparse
import time
import warnings
from pathlib import Path
from statistics import fmean

import torch
from measure import interval, write_result
from small_nets import CIFAR_EPOCHS, EPOCHS, cifar10, cifar10_net, fashion, train

from lightning_rectify.calibration import TemperatureScaling, compare_maps, score_whole
from lightning_rectify.calibration.selection import MAPS
from lightning_rectify.metrics import TopLabelCalibrationError
from lightning_rectify.randomness import keyed_generator

ECE, CLASS_WISE = "ece_top_label_l1", "ece_class_wise_l1"
SCORES = ("nll", ECE, CLASS_WISE, "ece_top_label_smooth", "accuracy")


def net_logits(name, parts, seed, cache):
    """Logits and labels of the test split, of a net that is trained unless its logits are cached."""
    file = cache / f"{name}-{seed}.pt" if cache else None
    if file and file.is_file():
        return torch.load(file)
    image, label = parts()["train"]
    if name == "cifar10":
        net = train(image, label, 10, seed, epochs=CIFAR_EPOCHS, make=cifar10_net)
    else:
        net = train(image, label, 10, seed, epochs=EPOCHS)
    image, label = parts()["test"]
    with torch.no_grad():
        found = torch.cat([net(batch) for batch in image.split(500)]), label
    if file:
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
    return found


def both_ways(logits, label, seed):
    """Scores of every map, averaged over the two halves; the interval and the floor of ECE among those of `none`."""
    order = torch.randperm(len(label), generator=keyed_generator("halves", seed))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    found = []
    for fitted_on, scored_on in (halves, halves[::-1]):
        fitted = {name: make(10).fit(logits[fitted_on], label[fitted_on]) for name, make in MAPS.items()}
        rows = compare_maps(fitted, logits[scored_on], label[scored_on])
        row = rows["temperature"]
        rows["none"]["half_width"] = (row[f"{ECE}_high"] - row[f"{ECE}_low"]) / 2
        rows["none"]["floor"] = floor(fitted["temperature"](logits[scored_on]), seed)
        found.append(rows)
    return {name: {key: fmean(rows[name][key] for rows in found) for key in row} for name, row in found[0].items()}


def floor(logits, seed, draws=50):
    """Mean ECE of labels drawn from the probabilities themselves."""
    generator = keyed_generator("floor", seed)
    labels = torch.multinomial(logits.softmax(1), draws, replacement=True, generator=generator)
    return fmean(float(score_whole(TopLabelCalibrationError(), logits, labels[:, draw])) for draw in range(draws))


def verdicts_of(name, rows, temperature):
    """The verdicts on one data set; `rows` are of `both_ways`, one a seed."""
    found = {}
    half, least = (fmean(row["none"][key] for row in rows) for key in ("half_width", "floor"))
    for key, title in ((ECE, "ECE"), (CLASS_WISE, "class-wise ECE")):
        less = interval([row["h_calibration"][key] - row["temperature"][key] for row in rows])
        text = f"{title} less that of temperature scaling {less['mean']:+.4f} ± {less['half_interval']:.4f}"
        if key == ECE:
            text += f"; one ECE is known to ± {half:.4f}, and drawn labels give {least:.4f}"
        found[f"{name}: h-calibration, {title}"] = {"holds": less["mean"] <= 0, "measured": text}
    for kind in MAPS:
        pairs = [(row["none"]["nll"], row[kind]["nll"]) for row in rows]
        lower = [after < before for before, after in pairs]
        before, after = (fmean(column) for column in zip(*pairs, strict=True))
        text = f"{before:.4f} to {after:.4f}, {sum(lower)} of {len(lower)} seeds; T {temperature:.2f}"
        found[f"{name}: {kind} lowers NLL"] = {"holds": all(lower), "measured": text}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cifar10", help="file with train_images, train_labels, test_images and test_labels")
    parser.add_argument("--cache", type=Path, help="folder of logits to use again")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start, verdicts, tables = time.perf_counter(), {}, {}
    sets = {"fashion_mnist": lambda: fashion(0.0)}
    if options.cifar10 or options.cache:
        sets["cifar10"] = lambda: cifar10(options.cifar10)
    for name, load in sets.items():
        kept = []
        parts = lambda load=load, kept=kept: (kept or kept.append(load()) or kept)[0]  # noqa: E731 - read once, if at all
        rows, temperatures = [], []
        for seed in range(options.seeds):
            logits, label = net_logits(name, parts, seed, options.cache)
            temperatures.append(TemperatureScaling(10).fit(logits, label).temperature)
            rows.append(both_ways(logits, label, seed))
            print(name, seed, {kind: round(row[ECE], 4) for kind, row in rows[-1].items()}, flush=True)
        verdicts |= verdicts_of(name, rows, fmean(temperatures))
        tables[name] = {kind: {key: interval([row[kind][key] for row in rows]) for key in SCORES} for kind in rows[0]}
    for claim, verdict in verdicts.items():
        print(f"{'holds' if verdict['holds'] else 'FAILED'}: {claim}: {verdict['measured']}", flush=True)
    write_result(
        "claims_post_hoc",
        {
            "seeds": options.seeds,
            "calibration_samples": 5000,
            "test_samples": 5000,
            "seconds": round(time.perf_counter() - start),
            "failed": [claim for claim, verdict in verdicts.items() if not verdict["holds"]] or "none",
            "verdicts": verdicts,
            **tables,
        },
    )


if __name__ == "__main__":
    main()
