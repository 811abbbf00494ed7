"""Do robust networks gain more under gradient maps than under RISE, on blocks of which the relevant one is known?

    python benchmarks/claims_saliency.py          # writes results/claims_saliency.json and .png

Images are those of `block_digits`: a digit and a null block without information, one above the other, so that the share
of a map inside the digit's block needs no annotation. A network is trained plainly and by PGD, for each seed.

The claim (2205.13042): robust networks score higher under gradient maps than under RISE. Scores are insertion less that
of a random order, both normalised by confidence, and the share inside the digit's block. Differences are between
networks of one seed; a claim holds if the mean difference is above the half-width of its 95 % Student interval.
What can be learnt from the gradients' pixels is measured by diff_roar.py.
"""

import argparse
import time
import warnings

import torch
import torch.nn.functional as F
from measure import RESULTS, interval, write_result
from torch import nn

from lightning_rectify.attacks import PGD
from lightning_rectify.attribution import input_gradient, insertion_deletion, random_maps, rise
from lightning_rectify.callbacks.figures import new_figure
from lightning_rectify.callbacks.saliency_figure import coloured
from lightning_rectify.datamodules import ShardDataModule, signal_block
from lightning_rectify.randomness import keyed_generator


def blocks():
    """Training and test images (N, 1, 16, 8) in [0, 1] and labels."""
    data = ShardDataModule("block_digits")
    data.prepare_data()
    data.setup()
    ids = (data.ids[split] for split in ("train", "test"))
    return [(data.images(chosen).float() / 255, torch.as_tensor(data.index.label[chosen])) for chosen in ids]


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


def in_block(maps, images):
    """Mean share of a map's magnitude inside the digit's block."""
    inside = (maps.abs() * signal_block(images)).sum((1, 2))
    return (inside / maps.abs().sum((1, 2)).clamp_min(1e-12)).mean().item()


def contrast(maps):
    """RISE less its least value: its offset is the mean probability and lies everywhere."""
    return maps - maps.flatten(1).amin(1).view(-1, 1, 1)


def study(net, test, options):
    """Everything measured of one network."""
    images, label = test
    few = slice(0, options.images)
    random_order = insertion_deletion(net, images[few], label[few], random_maps(images[few])).normalised_insertion
    attack = PGD(options.eps, options.eps / 4, 10)
    row = {
        "accuracy": accuracy(net, images, label),
        "robust_accuracy": accuracy(net, attack(net, images, label, generator=keyed_generator("test")).image, label),
    }
    maps = {
        "gradient": input_gradient(net, images[few], label[few]),
        "rise": contrast(rise(net, images[few], label[few], 512, cells=4, chunk=256)),
    }
    for name, values in maps.items():
        curves = insertion_deletion(net, images[few], label[few], values)
        row[f"{name}_insertion"] = curves.normalised_insertion - random_order
        row[f"{name}_in_block"] = in_block(values, images[few])
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
            row, maps = study(net, test, options)
            rows[kind].append(row)
            first.setdefault(kind, maps)
            print(kind, seed, {k: round(v, 4) for k, v in row.items() if isinstance(v, float)}, flush=True)

    def pairs(high, low):
        return [h[a] - g[b] for h, g, a, b in zip(rows[high[0]], rows[low[0]], [high[1]] * options.seeds,
                [low[1]] * options.seeds, strict=True)]  # fmt: skip

    verdicts = {}
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
