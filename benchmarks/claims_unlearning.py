"""Is SalUn closer to retraining than gradient ascent, fine-tuning and random labels without a mask?

    python benchmarks/claims_unlearning.py                 # writes results/claims_unlearning.json

Digits and a subset of Fashion-MNIST, small convolutional networks; 10 % of the training samples at random, or one whole
class (seed s forgets class s mod 10, the selection class 0), are forgotten. Every method starts from the same
original model and is compared with one retrained from scratch without the forget set, from the same seed. The rate
of each method (SSD's alpha) is the one of five with the smallest Avg. Gap for a seed of its own, validation samples
in the place of test samples; the seeds that are reported take no part in it. Test samples are read once per run.
Intervals are 95 % Student intervals over seeds.

The claim holds for a data set and a request if the mean Avg. Gap of SalUn is below that of each of the three; where the
95 % interval of the paired difference includes 0 the table says so.
"""

import argparse
import copy
import itertools
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from measure import interval, write_result

from lightning_rectify.backbones import PlainNet
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.losses import FineTune, GradientAscent, L1Sparse, NegGradPlus, RandomLabel, Scrub
from lightning_rectify.losses.objective import Context
from lightning_rectify.randomness import keyed_generator
from lightning_rectify.unlearning import (
    SSD,
    average_gap,
    forgotten_classes,
    mask_gradient,
    saliency_masks,
    saliency_scores,
    tug_of_war,
)
from lightning_rectify.unlearning.report import ModelFigures

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
EPOCHS, BATCH, MOMENTUM, DECAY = 5, 128, 0.9, 5e-4
SELECTION_SEED = 1000
RIVALS = ("gradient ascent", "fine-tuning", "random label")
SCORES = ("UA", "RA", "TA", "MIA_confidence", "MIA_loss", "AvgGap", "ToW", "seconds")


@dataclass(frozen=True)
class Method:
    """An objective with a density of the weight mask, or an edit; `grid` is what the selection chooses from."""

    make: object
    density: float = 1.0
    mask: str = "saliency"
    grid: tuple = RATES
    edit: bool = False


METHODS = {
    "SalUn": Method(RandomLabel, density=0.5),
    "random label": Method(RandomLabel),
    "SalUn, density 0.1": Method(RandomLabel, density=0.1),
    "random label, random mask": Method(RandomLabel, density=0.5, mask="random"),
    "gradient ascent": Method(GradientAscent),
    "fine-tuning": Method(FineTune),
    "l1-sparse": Method(lambda: L1Sparse(1e-4)),
    "NegGrad+": Method(NegGradPlus),
    "SCRUB": Method(Scrub),
    "SSD": Method(lambda alpha: SSD(alpha=alpha), grid=(1, 3, 10, 30, 100), edit=True),
}


@dataclass
class Data:
    """A data set in memory: images in [0, 1], labels, and the ids of each split."""

    image: torch.Tensor
    label: torch.Tensor
    ids: dict[str, torch.Tensor]
    net: object
    epochs: int
    cost: dict = field(default_factory=dict)

    def batches(self, ids, order=None):
        ids = ids if order is None else ids[torch.randperm(len(ids), generator=order)]
        for part in ids.split(BATCH if order is not None else 512):
            yield {"image": self.image[part], "label": self.label[part], "index": part}


def load(name):
    """Digits whole; 3,000 training, 1,000 validation and 5,000 test samples of Fashion-MNIST."""
    module = ShardDataModule(name, build={"source": "/usr/share/datasets/fashion-mnist"} if name != "digits" else None)
    module.prepare_data()
    module.setup()
    if name == "digits":
        sizes, net, epochs = {}, lambda: PlainNet(10, size=8, width=32, mean=[0.3], std=[0.38]), 30
    else:
        sizes = {"train": 3000, "val": 1000, "test": 5000}
        net, epochs = lambda: PlainNet(10, size=28, width=16, mean=[0.2859], std=[0.353]), 15
    chosen = {}
    for split in ("train", "val", "test"):
        ids = module.ids[split]
        draw = torch.randperm(len(ids), generator=keyed_generator("subset", split)).numpy()
        chosen[split] = np.sort(ids[draw[: sizes.get(split, len(ids))]])
    every = np.concatenate(list(chosen.values()))
    starts = np.cumsum([0, *(len(ids) for ids in chosen.values())])
    places = {s: torch.arange(a, b) for s, (a, b) in zip(chosen, itertools.pairwise(starts), strict=True)}
    image = module.images(every).float() / 255
    return Data(image, torch.from_numpy(module.index.label[every]).long(), places, net, epochs)


def request(data, kind, seed):
    """(forget, retain) ids."""
    train = data.ids["train"]
    if kind == "class":
        chosen = data.label[train] == seed % 10
    else:
        draw = torch.randperm(len(train), generator=keyed_generator(seed, "forget"))
        chosen = torch.zeros(len(train), dtype=torch.bool)
        chosen[draw[: len(train) // 10]] = True
    return train[chosen], train[~chosen]


def fit(data, ids, seed):
    """A network trained from scratch: SGD, cosine from 0.1, no augmentation."""
    torch.manual_seed(seed)
    net = data.net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=MOMENTUM, weight_decay=DECAY)
    steps = data.epochs * -(-len(ids) // BATCH)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = keyed_generator(seed, "order")
    for _ in range(data.epochs):
        for batch in data.batches(ids, order):
            optimizer.zero_grad()
            F.cross_entropy(net(batch["image"]), batch["label"]).backward()
            optimizer.step()
            decay.step()
    return net.eval()


def steps_of_epoch(objective, data, forget, retain, order, epoch):
    """The batches of an epoch, in the objective's own schedule; passes that it does not read are left out."""
    if objective.schedules[0] == "paired":
        cycle = itertools.chain.from_iterable(data.batches(forget, order) for _ in itertools.count())
        for batch in data.batches(retain, order):
            yield {"forget": next(cycle), "retain": batch}
        return
    if "forget" in objective.uses and epoch < getattr(objective, "forget_epochs", EPOCHS):
        yield from ({"forget": batch, "retain": None} for batch in data.batches(forget, order))
    if "retain" in objective.uses:
        yield from ({"forget": None, "retain": batch} for batch in data.batches(retain, order))


def unlearn(method, value, original, data, forget, retain, seed):
    """A copy of the original without the forget set, and the seconds it took, the mask included."""
    start = time.perf_counter()
    net = copy.deepcopy(original)
    if method.edit:
        method.make(value).apply(net, list(data.batches(forget)), list(data.batches(retain)))
        return net.eval(), time.perf_counter() - start
    hooks = []
    if method.density < 1:
        scores = saliency_scores(net, data.batches(forget))
        if method.mask == "random":
            draw = keyed_generator(seed, "mask")
            scores = {name: torch.rand(score.shape, generator=draw) for name, score in scores.items()}
        (mask,) = saliency_masks(scores, [method.density])
        weights = dict(net.named_parameters())
        hooks = [mask_gradient(weights[name], mask.bits(name), decay=lambda: DECAY) for name in weights]
    objective = method.make()
    objective.setup(net)
    decay = 0.0 if hooks else DECAY  # off the mask nothing may move: the hooks decay what may
    optimizer = torch.optim.SGD(net.parameters(), value, momentum=MOMENTUM, weight_decay=decay)
    order, step, net = keyed_generator(seed, "unlearning"), 0, net.train()
    for epoch in range(EPOCHS):
        for number, batch in enumerate(steps_of_epoch(objective, data, forget, retain, order, epoch)):
            optimizer.zero_grad()
            context = Context(step, (epoch + 0.5) / EPOCHS, (seed, 0, epoch, number))
            objective(net, batch, context).loss.backward()
            optimizer.step()
            objective.after_step(net)
            step += 1
    return net.eval(), time.perf_counter() - start


@torch.no_grad()
def figures(net, data, forget, retain, unseen):
    """UA, RA, TA and the attacks, with `unseen` (val or test) as what no model has seen; None if it diverged."""
    outputs = {}
    for name, ids in (("forget", forget), ("retain", retain), ("test", data.ids[unseen])):
        logits = torch.cat([net(batch["image"]) for batch in data.batches(ids)])
        if not bool(logits.isfinite().all()):
            return None
        outputs[name] = {"logits": logits, "label": data.label[ids]}
    dropped = forgotten_classes(outputs["forget"]["label"], outputs["retain"]["label"])
    return ModelFigures(outputs, dropped, limit=1000)


def select(data, kind, names):
    """For each method the value of its grid whose gap on validation samples is smallest, and all the gaps."""
    seed = SELECTION_SEED
    forget, retain = request(data, kind, seed)
    original, retrained = fit(data, data.ids["train"], seed), fit(data, retain, seed)
    goal = figures(retrained, data, forget, retain, "val").scores
    found = {}
    for name in names:
        gaps = {}
        for value in METHODS[name].grid:
            net, _ = unlearn(METHODS[name], value, original, data, forget, retain, seed)
            now = figures(net, data, forget, retain, "val")
            gaps[value] = round(average_gap(now.scores, goal), 2) if now else None
        finite = {value: gap for value, gap in gaps.items() if gap is not None}
        found[name] = {"chosen": min(finite, key=finite.__getitem__), "gaps": {str(k): v for k, v in gaps.items()}}
        print(f"  {name}: {found[name]}", flush=True)
    return found


def one_seed(data, kind, seed, chosen, originals):
    """Scores by model on test samples, each paired with the model retrained from the same seed."""
    forget, retain = request(data, kind, seed)
    if seed not in originals:
        start = time.perf_counter()
        originals[seed] = fit(data, data.ids["train"], seed)
        data.cost[seed] = time.perf_counter() - start
    start = time.perf_counter()
    retrained = fit(data, retain, seed)
    models = {"retrained": (retrained, time.perf_counter() - start)}
    models["original"] = originals[seed], data.cost[seed]
    models["retrained, other seed"] = fit(data, retain, seed + 500), models["retrained"][1]
    for name, found in chosen.items():
        models[name] = unlearn(METHODS[name], found["chosen"], originals[seed], data, forget, retain, seed)
    goal, rows = None, {}
    for name, (net, seconds) in models.items():
        now = figures(net, data, forget, retain, "test")
        if now is None:
            print(f"  seed {seed}: {name} diverged; its weights that are not finite count as 0", flush=True)
            for weight in net.state_dict().values():
                weight.nan_to_num_(0.0, 0.0, 0.0)
            now = figures(net, data, forget, retain, "test")
        goal = goal or now.scores
        gaps = {"AvgGap": average_gap(now.scores, goal), "ToW": tug_of_war(now.scores, goal), "seconds": seconds}
        rows[name] = {key: {**now.scores, **gaps}[key] for key in SCORES}
    print(f"  seed {seed}: " + ", ".join(f"{name} {row['AvgGap']:.2f}" for name, row in rows.items()), flush=True)
    return rows


def claim(runs):
    """SalUn's Avg. Gap minus each rival's, paired by seed."""
    differences = {
        rival: interval([run["SalUn"]["AvgGap"] - run[rival]["AvgGap"] for run in runs], 3) for rival in RIVALS
    }
    holds = all(found["mean"] < 0 for found in differences.values())
    clear = all(found["mean"] + found["half_interval"] < 0 for found in differences.values())
    verdict = "FAILED" if not holds else "holds" if clear else "holds in the mean, an interval includes 0"
    return {"verdict": verdict, **{f"SalUn minus {rival}": found for rival, found in differences.items()}}


def save(seeds, minutes, claims, tables, selection, runs):
    chosen = {name: {method: found["chosen"] for method, found in row.items()} for name, row in selection.items()}
    write_result(
        "claims_unlearning",
        {
            "seeds": seeds,
            "unlearning_epochs": EPOCHS,
            "minutes": minutes,
            "claim": claims,
            **tables,
            "chosen": chosen,
            "selection": [{"of": name, **row} for name, row in selection.items()],
            "runs": [{"of": name, "by_seed": rows} for name, rows in runs.items()],
        },
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=["digits", "fashion_mnist"])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tables, claims, selection, runs, start = {}, {}, {}, {}, time.perf_counter()
    for source in options.data:
        data, originals = load(source), {}
        for kind, words in (("random", "10 % at random"), ("class", "one class")):
            name = f"{source}, {words}"
            print(name, flush=True)
            selection[name] = select(data, kind, METHODS)
            chosen = selection[name]
            runs[name] = [one_seed(data, kind, seed, chosen, originals) for seed in range(options.seeds)]
            tables[name] = {
                model: {score: interval([run[model][score] for run in runs[name]], 3) for score in SCORES}
                for model in runs[name][0]
            }
            claims[name] = claim(runs[name])
            print(f"{claims[name]['verdict']}: {name}", flush=True)
            minutes = round((time.perf_counter() - start) / 60, 1)
            save(options.seeds, minutes, claims, tables, selection, runs)  # as it goes: a stopped run keeps its part


if __name__ == "__main__":
    main()
