"""Masks of weight saliency: against sorting for each density, in memory, on disk, and in a training step.

    python benchmarks/weight_saliency.py              # writes results/weight_saliency.json
    python benchmarks/weight_saliency.py --billion    # also one density of 10^9 weights; takes 9 GB

Ten densities of a ResNet-18 from given scores. The other side concatenates all scores and sorts them twice for each
density, as published code does. Memory is the high-water mark of a fresh process after the network was built; the
scores, which lie in the gradient buffers, are part of what is extra.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import interleaved, keep_freed_memory, write_result
from torch.nn import functional as F

from lightning_rectify.backbones import ResNet
from lightning_rectify.unlearning import architecture, saliency_masks, saliency_scores
from lightning_rectify.unlearning.gradient_mask import mask_gradient

DENSITIES = [tenth / 10 for tenth in range(1, 11)]
BATCH = 32


def network():
    torch.manual_seed(0)
    return ResNet(10, channels=3, depth=18)


def scores_of(net):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(p.shape, generator=generator).abs_() for name, p in net.named_parameters()}


def sorted_masks(scores):
    """Concatenate, rank all scores by sorting twice, and compare the ranks with k, once for each density."""
    for density in DENSITIES:
        flat = torch.cat([-score.flatten() for score in scores.values()])
        kept = int(len(flat) * density)
        ranks = torch.argsort(torch.argsort(flat))
        place = 0
        masks = {}
        for name, score in scores.items():
            part = ranks[place : place + score.numel()].view(score.shape)
            masks[name] = torch.zeros_like(part)
            masks[name][part < kept] = 1
            place += score.numel()


def our_masks(scores):
    for _ in saliency_masks(scores, DENSITIES):
        pass


def high_water():
    """Peak resident bytes of this process; `ru_maxrss` would count the parent's, which exec hands down."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory_probe():
    """Extra memory of scores and ten masks over the network, in units of its parameters."""
    torch.set_num_threads(1)
    small = ResNet(10, channels=3, depth=8, width=8)
    batch = {"image": torch.rand(2, 3, 32, 32), "label": torch.tensor([0, 1]), "index": torch.arange(2)}
    our_masks(saliency_scores(small, [batch]))  # what is loaded at the first use is not counted
    net = network()
    parameters = sum(p.numel() * p.element_size() for p in net.parameters())
    before = high_water()
    for parameter in net.parameters():
        parameter.grad = torch.empty_like(parameter).normal_().abs_()
    scored = high_water()
    our_masks({name: parameter.grad for name, parameter in net.named_parameters()})
    print(json.dumps({"scores": (scored - before) / parameters, "all": (high_water() - before) / parameters}))


def billion_probe():
    """One density of 10^9 weights with their scores: seconds, and the peak of the whole process."""
    torch.set_num_threads(1)
    weights = {f"layer{i}.weight": torch.empty(25_000_000).fill_(0.5) for i in range(40)}
    scores = {name: torch.empty_like(weight).normal_().abs_() for name, weight in weights.items()}
    start = time.perf_counter()
    (mask,) = saliency_masks(scores, [0.5])
    seconds = time.perf_counter() - start
    assert mask.ones == 500_000_000
    print(json.dumps({"weights": mask.size, "seconds": seconds, "peak_gib": high_water() / 2**30}))


def probe(name):
    """Run a probe in a process of its own."""
    ended = subprocess.run([sys.executable, __file__, "--probe", name], check=True, capture_output=True, text=True)
    return {key: round(value, 3) for key, value in json.loads(ended.stdout.splitlines()[-1]).items()}


def step_of(masked):
    """A training step of SGD with momentum; with a mask of density 0.5, the masked gradients included."""
    net = network().train()
    if masked:
        (mask,) = saliency_masks(scores_of(net), [0.5])
        for name, parameter in net.named_parameters():
            mask_gradient(parameter, mask.bits(name))
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    image, label = torch.rand(BATCH, 3, 32, 32), torch.arange(BATCH) % 10

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(image), label).backward()
        optimizer.step()

    return step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--billion", action="store_true")
    parser.add_argument("--probe", choices=["memory", "billion"])
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    if options.probe:
        memory_probe() if options.probe == "memory" else billion_probe()
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    net = network()
    scores = scores_of(net)
    our_masks(scores)
    sides = {"sorting": lambda: sorted_masks(scores), "radix": lambda: our_masks(scores)}
    masks = interleaved(sides, repeats=2, warmup=0)
    with tempfile.TemporaryDirectory() as folder:
        (mask,) = saliency_masks(scores, [0.5], architecture=architecture(net))
        mask.save(f"{folder}/mask.safetensors")
        on_disk = Path(f"{folder}/mask.safetensors").stat().st_size
    steps = interleaved({"free": step_of(False), "masked": step_of(True)}, repeats=options.steps, warmup=2)
    figures = {
        "weights": mask.size,
        "ten_densities": {
            "concatenating_and_sorting_twice_s": round(masks["sorting"].median, 3),
            "radix_s": round(masks["radix"].median, 4),
            "ratio": round(masks["sorting"].slower_than(masks["radix"]), 1),
        },
        "extra_memory_in_parameters": probe("memory"),
        "mask_bytes": {"on_disk": on_disk, "bits_of_the_weights": mask.size // 8},
        "training_step_at_batch_32": {
            "free_ms": steps["free"].milliseconds,
            "masked_ms": steps["masked"].milliseconds,
            "overhead_percent": round(100 * (steps["masked"].slower_than(steps["free"]) - 1), 2),
        },
    }
    if options.billion:
        figures["one_density_of_a_billion"] = probe("billion")
    write_result("weight_saliency", figures)


if __name__ == "__main__":
    main()
