"""Steps of adversarial training against the straightforward loop, and the attack against torchattacks.

    python benchmarks/adversarial.py [--torchattacks FOLDER]     # writes results/adversarial.json

FOLDER is where torchattacks was installed (`pip install --target FOLDER --no-deps torchattacks`); without it that
comparison is left out. ResNet-18, images 3x32x32, K = 5. The competitors take turns, and ratios are medians
over rounds. The straightforward loop is that of the published TRADES code: the clean forward in each attack step,
weights not frozen, clean forward twice at the end, float32.

In forward passes F the straightforward loop costs 3K + 9 and ours 2K + 7: the backward of an attack step 1 (no weight
gradients), of a training pass 2. Where convolutions take nearly all the time, their ratio bounds the gain at equal
precision, and PGD, 2K for either side, gains only from what is not a convolution.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measure import Timing, interleaved, keep_freed_memory, write_result
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_rectify.attacks import PGD
from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import AdversarialTraining, Context, Trades

SIZE, STEPS = 32, 5
EPS, LENGTH, BETA = 8 / 255, 2 / 255, 6.0
Figures = dict[str, dict[str, float]]


def data(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, SIZE, SIZE, generator=generator), torch.randint(10, (batch,), generator=generator)


def network(channels_last: bool = False) -> nn.Module:
    torch.manual_seed(0)
    built = ResNet(10, depth=18).train()
    return built.to(memory_format=torch.channels_last) if channels_last else built


def straightforward_trades(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """Return the loss, as the published code computes it."""
    divergence = nn.KLDivLoss(reduction="sum")
    model.eval()
    x = image.detach() + 0.001 * torch.randn(image.shape).detach()
    for _ in range(STEPS):
        x.requires_grad_()
        with torch.enable_grad():
            loss = divergence(F.log_softmax(model(x), dim=1), F.softmax(model(image), dim=1))
        gradient = torch.autograd.grad(loss, [x])[0]
        x = x.detach() + LENGTH * torch.sign(gradient.detach())
        x = torch.min(torch.max(x, image - EPS), image + EPS)
        x = torch.clamp(x, 0.0, 1.0)
    model.train()
    x = torch.clamp(x, 0.0, 1.0).detach()
    natural = F.cross_entropy(model(image), label)
    robust = divergence(F.log_softmax(model(x), dim=1), F.softmax(model(image), dim=1)) / len(image)
    return natural + BETA * robust


def step(model: nn.Module, loss: Callable[[], Tensor], bf16: bool = False) -> Callable[[], None]:
    """A training step without the optimizer, which is the same for all."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()

    return run


def trades(batch: int, channels_last: bool, bf16: bool) -> Callable[[], None]:
    model, (image, label) = network(channels_last), data(batch)
    attack = PGD(EPS, LENGTH, STEPS, start="normal", bf16=bf16, channels_last=channels_last)
    objective = AdversarialTraining(attack, Trades(BETA))
    samples = {"image": image.contiguous(memory_format=torch.channels_last) if channels_last else image, "label": label}
    return step(model, lambda: objective(model, samples, Context()).loss, bf16)


def reference_trades(batch: int) -> Callable[[], None]:
    model, (image, label) = network(), data(batch)
    return step(model, lambda: straightforward_trades(model, image, label))


def attacks(batch: int, torchattacks: str | None) -> dict[str, Callable[[], object]]:
    model, (image, label) = network().eval(), data(batch)
    tried: dict[str, Callable[[], object]] = {}
    if torchattacks:
        sys.path.append(torchattacks)
    try:
        from torchattacks import PGD as TheirPGD
    except ImportError:
        print("torchattacks is not installed: the attack is compared with itself only; see --help.")
    else:
        theirs = TheirPGD(copy.deepcopy(model), eps=EPS, alpha=LENGTH, steps=STEPS, random_start=True)
        tried["torchattacks"] = lambda: theirs(image, label)
    wide = network(True).eval()

    def ours(net: nn.Module, **how: bool) -> Callable[[], object]:
        attack, generator = PGD(EPS, LENGTH, STEPS, **how), torch.Generator()
        return lambda: attack(net, image, label, generator=generator)

    tried["ours"] = ours(model)
    tried["ours, channels last"] = ours(wide, channels_last=True)
    tried["ours, bf16, channels last"] = ours(wide, bf16=True, channels_last=True)
    return tried


def bf16_of_the_processor() -> str:
    """The instructions for bf16 that the processor has."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return ", ".join(sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})) or "none: bf16 is emulated"


def forward_pass(batch: int) -> Callable[[], object]:
    model, (image, _) = network(), data(batch)

    def run() -> None:
        with torch.no_grad():
            model(image)

    return run


def figures(times: dict[str, Timing], reference: str) -> Figures:
    return {
        name: {"ms": round(1e3 * time.median, 1), "speedup": round(times[reference].slower_than(time), 2)}
        for name, time in times.items()
    }


def agreement(batch: int) -> float:
    """Share of pixels that ours and a straightforward PGD from the same start leave elsewhere, in evaluation mode."""
    model, (image, label) = network().eval(), data(batch)
    noise = torch.empty_like(image).uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    x = (image + EPS * noise).clamp(0, 1)
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(model(x), label, reduction="sum")
        x = x.detach() + LENGTH * torch.autograd.grad(loss, x)[0].sign()
        x = torch.min(torch.max(x, image - EPS), image + EPS).clamp(0, 1)
    ours = PGD(EPS, LENGTH, STEPS)(model, image, label, generator=torch.Generator().manual_seed(3)).image
    return float((ours - x).abs().gt(1e-6).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchattacks", metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2, help="each takes more than a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, rounds = arguments.batch, arguments.rounds
    keep_freed_memory()
    for warm in (trades(4, True, True), reference_trades(4)):
        warm()
    steps = {
        "straightforward": reference_trades(batch),
        "ours": trades(batch, False, False),
        "ours, channels last": trades(batch, True, False),
        "ours, bf16, channels last": trades(batch, True, True),
        "forward": forward_pass(batch),
    }
    timed = interleaved(steps, rounds, warmup=0)
    forward = timed.pop("forward")
    counted = 2 * STEPS + 7
    tried = attacks(batch, arguments.torchattacks)
    attacked = interleaved(tried, rounds, warmup=0)
    steps_told = figures(timed, "straightforward")
    for name, time in timed.items():
        steps_told[name]["forwards"] = round(time.slower_than(forward), 2)
    write_result(
        "adversarial",
        {
            "batch": [batch, 3, SIZE, SIZE],
            "network": "ResNet-18",
            "attack_steps": STEPS,
            "rounds": rounds,
            "bf16_instructions": bf16_of_the_processor(),
            "forward_ms": round(1e3 * forward.median, 1),
            "forwards_counted_straightforward": 3 * STEPS + 9,
            "forwards_counted_ours": counted,
            "share_of_pixels_unlike_a_straightforward_pgd": agreement(16),
            "trades_step": steps_told,
            "pgd_attack": figures(attacked, next(iter(tried))),
        },
    )
    check(steps_told, figures(attacked, next(iter(tried))), counted)


def check(steps: Figures, attacked: Figures, counted: int) -> None:
    """Say which of the aims was reached."""
    plain = ("ours", "ours, channels last")
    low = "ours, bf16, channels last"
    aims = {
        "TRADES step at equal precision": (max(steps[name]["speedup"] for name in plain), 1.5),
        "TRADES step in bf16": (steps[low]["speedup"], 2.8),
        "counted over measured forwards of a step, at least 1 / 1.15": (counted / steps["ours"]["forwards"], 1 / 1.15),
    }
    if "torchattacks" in attacked:
        aims["PGD at equal precision"] = (max(attacked[name]["speedup"] for name in plain), 1.1)
        aims["PGD in bf16"] = (attacked[low]["speedup"], 2.0)
    for name, (found, wanted) in aims.items():
        print(f"{'reached' if found >= wanted else 'FAILED'}: {name}: {found:.2f} (aim {wanted:.2f})")


if __name__ == "__main__":
    main()
