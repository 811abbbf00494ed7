"""Two claims about robust networks and their maps, on blocks of which the relevant one is known.

    python benchmarks/claims_saliency.py          # writes results/claims_saliency.json and .png

BlockMNIST-style images from the handwritten digits: a digit and a null block without information, one above the other
in random order, so that the share of a map inside the digit's block needs no annotation. A network is trained plainly
and by PGD, for each seed.

Claim 1 (Shah et al. 2021): DiffROAR of the input gradient is above 0 for the robust networks, and above that of the
standard ones. Claim 2 (2205.13042): robust networks score higher under gradient maps than under RISE. Scores are
insertion less that of a random order, both normalised by confidence, and the share inside the digit's block.
Differences are between networks of one seed; a claim holds if the mean difference is above the half-width of its 95 %
Student interval.
"""

import argparse
import time
import warnings

import torch
import torch.nn.functional as F
from measure import RESULTS, interval, write_result
from torch import nn

from lightning_rectify.attacks import PGD
from lightning_rectify.attribution import diff_roar, input_gradient, insertion_deletion, random_maps, rise
from lightning_rectify.callbacks.figures import new_figure
from lightning_rectify.callbacks.saliency_figure import coloured
from lightning_rectify.randomness import keyed_generator

KEPT = (0.05, 0.1, 0.2)


def blocks(seed=0):
    """Training and test images (N, 1, 16, 8) in [0, 1], labels, and whether the digit stands below."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16
    label = torch.tensor(digits.target)
    null = torch.zeros(8, 8)
    null[1:7, 1:7] = 0.5
    null[2:6, 2:6] = 0
    null[3:5, 3:5] = 1.0
    below = torch.rand(len(images), generator=keyed_generator("blocks", seed)) < 0.5
    top = torch.where(below.view(-1, 1, 1), null, images)
    bottom = torch.where(below.view(-1, 1, 1), images, null)
    whole = torch.cat((top, bottom), 1)[:, None]
    order = torch.randperm(len(images), generator=keyed_generator("split"))
    train, test = order[:1400], order[1400:]
    return (whole[train], label[train], below[train]), (whole[test], label[test], below[test])


def network(width=16):
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(2 * width, 2 * width, 3, 2, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(2 * width * 4 * 2, 10))


def trained(images, label, seed, epochs, attack=None):
    """A network trained on the images, or on what an attack makes of them."""
    torch.manual_seed(seed)
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-3)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = keyed_generator("attack", seed)
    for _ in range(epochs):
        for places in torch.randperm(len(images)).split(64):
            if len(places) < 64:
                continue
            batch = images[places]
            if attack is not None:
                batch = attack(net, batch, label[places], generator=generator).image
            loss = F.cross_entropy(net(batch), label[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def accuracy(net, images, label):
    with torch.no_grad():
        return (net(images).argmax(1) == label).float().mean().item()


def in_block(maps, below):
    """Mean share of a map's magnitude inside the digit's block."""
    maps = maps.abs()
    lower = maps[:, 8:].sum((1, 2)) / maps.sum((1, 2)).clamp_min(1e-12)
    return torch.where(below, lower, 1 - lower).mean().item()


def contrast(maps):
    """RISE less its least value: its offset is the mean probability and lies everywhere."""
    return maps - maps.flatten(1).amin(1).view(-1, 1, 1)


def study(net, train, test, seed, options):
    """Everything measured of one network."""
    images, label, below = test
    few = slice(0, options.images)
    gradient = input_gradient(net, images, label)

    def retrain(kept):
        fresh = trained(kept, train[1], seed + 1000, options.retrain_epochs)
        return lambda x, y: accuracy(fresh, x, y)

    roar = diff_roar(train[0], input_gradient(net, train[0], train[1]), retrain, images, gradient, label, KEPT)
    random_order = insertion_deletion(net, images[few], label[few], random_maps(images[few])).normalised_insertion
    attack = PGD(options.eps, options.eps / 4, 10)
    row = {
        "accuracy": accuracy(net, images, label),
        "robust_accuracy": accuracy(net, attack(net, images, label, generator=keyed_generator("test")).image, label),
        "diff_roar": roar.score,
        "top": roar.top,
        "bottom": roar.bottom,
    }
    maps = {"gradient": gradient[few], "rise": contrast(rise(net, images[few], label[few], 512, cells=4, chunk=256))}
    for name, values in maps.items():
        curves = insertion_deletion(net, images[few], label[few], values)
        row[f"{name}_insertion"] = curves.normalised_insertion - random_order
        row[f"{name}_in_block"] = in_block(values, below[few])
    return row, maps


def verdict(text, differences):
    result = interval(differences)
    holds = result["mean"] > result["half_interval"]
    print(
        f"{'holds' if holds else 'FAILED'}: {text}: {result['mean']:+.4f} ± {result['half_interval']:.4f}", flush=True
    )
    return {"difference": result, "holds": holds}


def picture(test, maps):
    """Images beside the maps of both networks of the first seed."""
    figure = new_figure(7.6, 4.4)
    axes = figure.subplots(5, 8)
    rows = [("image", None), *((f"{kind}\n{name}", maps[kind][name]) for kind in maps for name in maps[kind])]
    for line, (title, values) in zip(axes, rows, strict=True):
        scale = 1.0 if values is None else float(values.abs().flatten().quantile(0.999))
        for place, ax in enumerate(line):
            shown = test[0][place, 0].numpy() if values is None else coloured(values[place : place + 1], scale)[0]
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    figure.suptitle(
        "What a standard and an adversarially trained network look at; only one block holds a digit", fontsize=10
    )
    figure.subplots_adjust(left=0.17, right=0.99, bottom=0.02, top=0.91, wspace=0.05, hspace=0.08)
    figure.savefig(RESULTS / "claims_saliency.png", dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--retrain_epochs", type=int, default=15)
    parser.add_argument("--eps", type=float, default=0.15)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    train, test = blocks()
    rows, first = {"standard": [], "robust": []}, {}
    for seed in range(options.seeds):
        for kind, attack in (("standard", None), ("robust", PGD(options.eps, options.eps / 3, 5))):
            net = trained(train[0], train[1], seed, options.epochs, attack)
            row, maps = study(net, train, test, seed, options)
            rows[kind].append(row)
            first.setdefault(kind, maps)
            print(kind, seed, {k: round(v, 4) for k, v in row.items() if isinstance(v, float)}, flush=True)

    def pairs(high, low):
        return [h[a] - g[b] for h, g, a, b in zip(rows[high[0]], rows[low[0]], [high[1]] * options.seeds,
                [low[1]] * options.seeds, strict=True)]  # fmt: skip

    verdicts = {
        "diff_roar_above_0": verdict(
            "DiffROAR of robust networks is above 0", [r["diff_roar"] for r in rows["robust"]]
        ),
        "diff_roar_above_standard": verdict(
            "DiffROAR of robust networks is above that of standard ones",
            pairs(("robust", "diff_roar"), ("standard", "diff_roar")),
        ),
    }
    for score in ("insertion", "in_block"):
        verdicts[f"gradient_above_rise_{score}"] = verdict(
            f"robust networks score higher under gradient maps than under RISE, {score}",
            pairs(("robust", f"gradient_{score}"), ("robust", f"rise_{score}")),
        )
        gain = [
            (robust[f"gradient_{score}"] - standard[f"gradient_{score}"])
            - (robust[f"rise_{score}"] - standard[f"rise_{score}"])
            for robust, standard in zip(rows["robust"], rows["standard"], strict=True)
        ]
        verdicts[f"gain_of_robustness_under_gradient_above_rise_{score}"] = verdict(
            f"robustness raises the score more under gradient maps than under RISE, {score}", gain
        )
    scores = [name for name, value in rows["robust"][0].items() if isinstance(value, float)]
    table = {kind: {name: interval([row[name] for row in found]) for name in scores} for kind, found in rows.items()}
    picture(test, first)
    write_result(
        "claims_saliency",
        {
            "options": vars(options),
            "seconds": round(time.perf_counter() - start),
            "networks": table,
            "verdicts": {name: {"holds": v["holds"], "difference": v["difference"]} for name, v in verdicts.items()},
        },
    )


if __name__ == "__main__":
    main()
