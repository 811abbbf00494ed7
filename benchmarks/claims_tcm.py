"""Does the threshold-consistent margin make OPIS fall by 30 % without costing Recall@1, on letters never seen?

    python benchmarks/claims_tcm.py                 # writes results/claims_tcm.json and results/claims_tcm.png

Trains on Latin letters, tests on Greek, Cyrillic, Armenian and Georgian ones. Two base losses, each with and without
the margin at its published defaults, equal in everything else; five seeds, three times the epochs of the recipe. The
last weights are tested: nothing is selected. Differences are between runs of one seed; intervals are 95 % Student
intervals of their mean.

Beside OPIS stands its noise floor: what classes of these sizes would show if they were all alike, an upper bound. OPIS
cannot be expected to fall below it.

The claim holds for a base loss if OPIS falls by 30 % in the mean and Recall@1 does not fall by more than its interval.
"""

import argparse
import json
import logging
import statistics
import time
import warnings

import torch
from measure import RESULTS, interval, write_result
from pytorch_lightning import Trainer, seed_everything

from lightning_rectify.backbones import PlainNet
from lightning_rectify.callbacks.figures import new_figure
from lightning_rectify.datamodules import BalancedClasses, ShardDataModule
from lightning_rectify.lightning_modules import Cosine, Retriever
from lightning_rectify.losses import MetricLearning, RecallAtK, SmoothAP, ThresholdConsistentMargin
from lightning_rectify.metrics import opis_noise_floor

FALL = 0.30
BASES = {"SmoothAP": SmoothAP, "RecallAtK": RecallAtK}
KEPT = ("recall_at_1", "map_at_r", "opis", "epsilon_opis", "eer", "far_at_threshold", "frr_at_threshold")


def run(base, weight, seed, epochs):
    """Test scores of one training."""
    seed_everything(seed, verbose=False)
    data = ShardDataModule("glyphs", batch_size=128, eval_batch_size=256, sampler=BalancedClasses(4))
    margin = [ThresholdConsistentMargin(positive_weight=weight, negative_weight=weight)] if weight else []
    module = Retriever(
        PlainNet(64, mean=[0.0791], std=[0.225]),
        MetricLearning(BASES[base](), margin),
        optimizer=lambda weights: torch.optim.AdamW(weights, lr=3e-3, weight_decay=1e-4),
        schedule=Cosine(warmup=0.1),
    )
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(module, data)
    scores = trainer.test(module, data, verbose=False)[0]
    row = {"base": base, "weight": weight, "seed": seed, **{name: scores[f"test/{name}"] for name in KEPT}}
    row["opis_noise_floor"] = float(opis_noise_floor(module.evaluation().histogram).mean())
    print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def verdict(base, rows):
    """Compare the runs of a base loss, seed by seed."""
    pairs = {row["seed"]: {} for row in rows}
    for row in rows:
        pairs[row["seed"]][bool(row["weight"])] = row
    fall = interval([1 - pair[True]["opis"] / pair[False]["opis"] for pair in pairs.values()])
    gain = interval([pair[True]["recall_at_1"] - pair[False]["recall_at_1"] for pair in pairs.values()])
    floor = statistics.fmean(pair[True]["opis_noise_floor"] / pair[False]["opis"] for pair in pairs.values())
    holds = fall["mean"] >= FALL and gain["mean"] >= -gain["half_interval"]
    word = "holds" if holds else "FAILED"
    print(
        f"{word}: {base}: OPIS falls by {fall['mean']:.1%} ± {fall['half_interval']:.1%} (claimed {FALL:.0%}), "
        f"Recall@1 changes by {gain['mean']:+.2%} ± {gain['half_interval']:.2%}, {len(pairs)} seeds; "
        f"classes of these sizes that are all alike show {floor:.0%} of the base loss's OPIS"
    )
    return {"opis_fall": fall, "recall_at_1_change": gain, "holds": holds, "noise_floor_share": round(floor, 3)}


def pareto(rows, verdicts):
    figure = new_figure(6.4, 4.6)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.12, top=0.75)
    for (base, result), colour in zip(verdicts.items(), ("#2a6f97", "#c8553d"), strict=True):
        centres = []
        for with_margin, marker in ((False, "o"), (True, "^")):
            own = [row for row in rows if row["base"] == base and bool(row["weight"]) == with_margin]
            recall, opis = [[row[name] for row in own] for name in ("recall_at_1", "opis")]
            fall = result["opis_fall"]
            change = f"OPIS {-fall['mean']:+.0%} ± {fall['half_interval']:.0%}"
            label = f"{base} + TCM, {change}" if with_margin else base
            axes.scatter(
                recall, opis, 34, color=colour, marker=marker, alpha=0.45 if not with_margin else 0.9, label=label
            )
            centres.append((sum(recall) / len(own), sum(opis) / len(own)))
        axes.annotate("", centres[1], centres[0], arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.4})
    axes.set(xlabel="Recall@1 on letters never seen (further right is better)", ylabel="OPIS (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6, which="both")
    # above the axes, where no run can lie
    axes.legend(fontsize=8.5, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0))
    figure.text(0.02, 0.95, "Recall against consistency at one threshold", fontsize=11.5, va="center")
    count = len({row["seed"] for row in rows})
    figure.text(
        0.02,
        0.89,
        f"glyphs, a mark a run, {count} seeds, arrows between the means",
        fontsize=8.5,
        va="center",
        color="#444444",
    )
    figure.savefig(RESULTS / "claims_tcm.png", dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--weight", type=float, default=1.0, help="of the margin")
    parser.add_argument("--draw", action="store_true", help="only draw what the result file says")
    options = parser.parse_args()
    if options.draw:
        result = json.loads((RESULTS / "claims_tcm.json").read_text())
        pareto(result["runs"], result["verdicts"])
        return
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rows = [
        run(base, weight, seed, options.epochs)
        for seed in range(options.seeds)
        for base in BASES
        for weight in (0.0, options.weight)
    ]
    verdicts = {base: verdict(base, [row for row in rows if row["base"] == base]) for base in BASES}
    pareto(rows, verdicts)
    chosen = {name: getattr(options, name) for name in ("seeds", "epochs", "weight")}
    write_result("claims_tcm", {"options": chosen, "claimed_fall": FALL, "verdicts": verdicts, "runs": rows})


if __name__ == "__main__":
    main()
