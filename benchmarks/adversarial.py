"""Steps of adversarial training against the straightforward loop, and the attack against torchattacks.

    python benchmarks/adversarial.py [--torchattacks FOLDER] [--threads 1] [--batch 64]

FOLDER is where torchattacks was installed (`pip install --target FOLDER --no-deps torchattacks`); without it that
comparison is left out. ResNet-18, images 3x32x32, K = 5. The competitors take turns, and ratios are medians
over rounds. The straightforward loop is that of the published TRADES code: the clean forward in each attack step,
weights not frozen, clean forward twice at the end, float32.
"""

import argparse
import copy
import sys
from collections.abc import Callable

import torch
from measure import Timing, interleaved, keep_freed_memory, write_result
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_rectify.attacks import PGD, DivergenceGain
from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import AdversarialTraining, Context, Trades

SIZE, STEPS = 32, 5
EPS, LENGTH, BETA = 8 / 255, 2 / 255, 6.0


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
        from torchattacks import PGD as TheirPGD

        theirs = TheirPGD(copy.deepcopy(model), eps=EPS, alpha=LENGTH, steps=STEPS, random_start=True)
        tried["torchattacks"] = lambda: theirs(image, label)
    wide = network(True).eval()

    def ours(net: nn.Module, **how: bool) -> Callable[[], object]:
        attack, generator = PGD(EPS, LENGTH, STEPS, **how), torch.Generator()
        return lambda: attack(net, image, label, generator=generator)

    tried["ours"] = ours(model)
    tried["ours, channels last"] = ours(wide, channels_last=True)
    tried["ours, bf16"] = ours(model, bf16=True)
    tried["ours, bf16, channels last"] = ours(wide, bf16=True, channels_last=True)
    return tried


def forward_pass(batch: int) -> Callable[[], object]:
    model, (image, _) = network(), data(batch)

    def run() -> None:
        with torch.no_grad():
            model(image)

    return run


def figures(times: dict[str, Timing], reference: str) -> dict[str, dict[str, float]]:
    return {
        name: {"ms": round(1e3 * time.median, 1), "speedup": round(times[reference].slower_than(time), 2)}
        for name, time in times.items()
    }


def agreement(batch: int) -> float:
    """Largest difference in a pixel between ours and the straightforward attack from the same start, in eval mode."""
    model, (image, label) = network().eval(), data(batch)
    generator = torch.Generator().manual_seed(3)
    noise = torch.empty_like(image).normal_(generator=generator)
    x, clean = image + 1e-3 * noise, model(image).softmax(1).detach()
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        loss = F.kl_div(model(x).log_softmax(1), clean, reduction="sum")
        x = x.detach() + LENGTH * torch.autograd.grad(loss, x)[0].sign()
        x = torch.min(torch.max(x, image - EPS), image + EPS).clamp(0, 1)
    attack = PGD(EPS, LENGTH, STEPS, start="normal")
    ours = attack(model, image, label, DivergenceGain(), torch.Generator().manual_seed(3)).image
    return float((ours - x).abs().gt(1e-6).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--torchattacks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch = arguments.batch
    keep_freed_memory()
    steps = {
        "straightforward": reference_trades(batch),
        "ours": trades(batch, False, False),
        "ours, channels last": trades(batch, True, False),
        "ours, bf16": trades(batch, False, True),
        "ours, bf16, channels last": trades(batch, True, True),
        "forward": forward_pass(batch),
    }
    timed = interleaved(steps, arguments.repeats, warmup=1)
    forward = timed.pop("forward")
    counted = 2 * STEPS + 7
    tried = attacks(batch, arguments.torchattacks)
    attacked = interleaved(tried, arguments.repeats, warmup=1)
    write_result(
        "adversarial",
        {
            "setting": {
                "batch": [batch, 3, SIZE, SIZE],
                "network": "ResNet-18",
                "steps": STEPS,
                "rounds": arguments.repeats,
            },
            "trades_step": figures(timed, "straightforward"),
            "forward_ms": round(1e3 * forward.median, 1),
            "trades_step_over_counted_forwards": round(timed["ours"].slower_than(forward) / counted, 3),
            "pgd_attack": figures(attacked, next(iter(tried))),
            "pgd_reference": next(iter(tried)),
            "share_of_pixels_unlike_the_straightforward_attack": agreement(batch),
        },
    )


if __name__ == "__main__":
    main()
