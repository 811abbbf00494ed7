"""Mixing per sample against timm's `elem` mode, against a loop of single FMix masks, and against a training step.

    python benchmarks/mixing.py

All ratios are medians over rounds in which the competitors take turns. Batch 128, images 3x32x32, one thread for all:
numpy's sampler knows only one, and threads that wait for each other on a busy machine measure the neighbours.
"""

from collections.abc import Callable

import numpy as np
import torch
from measure import Timing, interleaved, keep_freed_memory, write_result
from timm.data import Mixup as TimmMixup
from torch import Tensor, nn

from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import (
    Context,
    CutMix,
    DirichletMixup,
    EmpiricalRisk,
    FMix,
    ManifoldMixup,
    Mixup,
    cutmix,
    fmix_masks,
    mixup,
)
from lightning_rectify.losses.objective import Objective

BATCH, SIZE, CLASSES = 128, 32, 10


def single_mask(size: int, lam: float, decay: float = 3.0) -> np.ndarray:
    """The straightforward sampler of one mask: a real inverse FFT and a full sort of the pixels."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    noise = np.random.standard_normal(frequency.shape) + 1j * np.random.standard_normal(frequency.shape)
    field = np.fft.irfft2(noise / np.maximum(frequency, 1 / size) ** decay, (size, size)).ravel()
    mask = np.zeros(size * size, np.float32)
    mask[np.argsort(field)[::-1][: round(lam * size * size)]] = 1
    return mask.reshape(1, size, size)


def loop_of_masks(count: int, size: int) -> Tensor:
    return torch.from_numpy(np.stack([single_mask(size, np.random.beta(1, 1)) for _ in range(count)]))


def masks(count: int, size: int) -> Tensor:
    return fmix_masks((size, size), torch.distributions.Beta(1.0, 1.0).sample((count,)))


class NoNetwork(nn.Module):
    """Logits that cost nothing, so that only the objective's own work is timed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Identity()
        self.logits = nn.Parameter(torch.zeros(BATCH, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        self.layer1(image)
        return self.logits


def against_others() -> dict[str, dict[str, float]]:
    image, label = torch.rand(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (BATCH,))
    spare = image.clone()  # timm writes into its input
    options = {"mode": "elem", "label_smoothing": 0.0, "num_classes": CLASSES}
    timm_mixup = TimmMixup(mixup_alpha=1.0, cutmix_alpha=0.0, **options)
    timm_cutmix = TimmMixup(mixup_alpha=0.0, cutmix_alpha=1.0, **options)
    times = interleaved(
        {
            "mixup": lambda: mixup(image, label),
            "timm elem mixup": lambda: timm_mixup(spare, label),
            "cutmix": lambda: cutmix(image, label),
            "timm elem cutmix": lambda: timm_cutmix(spare, label),
            "fmix masks": lambda: masks(BATCH, SIZE),
            "loop of single masks": lambda: loop_of_masks(BATCH, SIZE),
        },
        repeats=60,
        calls=5,
    )

    def pair(ours: str, theirs: str) -> dict[str, float]:
        return {
            "ms": times[ours].milliseconds,
            "reference_ms": times[theirs].milliseconds,
            "speedup": round(times[theirs].slower_than(times[ours]), 2),
        }

    return {
        "mixup_vs_timm_elem": pair("mixup", "timm elem mixup"),
        "cutmix_vs_timm_elem": pair("cutmix", "timm elem cutmix"),
        "fmix_masks_vs_loop": pair("fmix masks", "loop of single masks"),
    }


def against_a_step() -> dict[str, dict[str, float]]:
    """The objective's own time, less that of EmpiricalRisk, as a share of a ResNet-18 training step."""
    data = {"image": torch.rand(BATCH, 3, SIZE, SIZE), "label": torch.randint(CLASSES, (BATCH,))}
    nothing = NoNetwork()

    def own_work(objective: Objective) -> Callable[[], None]:
        return lambda: objective(nothing, data, Context()).loss.backward()

    objectives: dict[str, Objective] = {
        "empirical_risk": EmpiricalRisk(),
        "mixup": Mixup(),
        "cutmix": CutMix(),
        "fmix": FMix(),
        "fmix_soft": FMix(max_soft=0.2),
        "manifold_mixup": ManifoldMixup(["layer1"]),
        "dirichlet_mixup": DirichletMixup(2),
    }
    own = interleaved({name: own_work(objective) for name, objective in objectives.items()}, repeats=40, calls=3)

    network = ResNet(CLASSES, depth=18)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    plain = EmpiricalRisk()

    def step() -> None:
        optimizer.zero_grad()
        plain(network, data, Context()).loss.backward()
        optimizer.step()

    whole: Timing = interleaved({"step": step}, repeats=5, warmup=1)["step"]
    figures = {"resnet18_step": {"ms": whole.milliseconds}}
    for name in list(objectives)[1:]:
        extra = own[name].minus(own["empirical_risk"])
        figures[name] = {
            "extra_ms": round(1e3 * extra, 4),
            "share_of_step_percent": round(100 * extra / whole.median, 3),
        }
    return figures


def exactness() -> dict[str, dict[str, float]]:
    """How far the realised share of a mask lies from the wanted one, in pixels and as a share."""
    figures = {}
    for shape in ((256,), (32, 32), (224, 224), (24, 24, 24)):
        lam = torch.rand(512)
        pixels = int(np.prod(shape))
        away = (fmix_masks(shape, lam).flatten(1).mean(1, dtype=torch.float64) - lam).abs()
        figures["x".join(map(str, shape))] = {
            "mean_pixels": round(float(away.mean()) * pixels, 2),
            "max_pixels": round(float(away.max()) * pixels, 2),
            "max_share": round(float(away.max()), 6),
        }
    return figures


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    np.random.seed(0)
    write_result(
        "mixing",
        {
            "batch": [BATCH, 3, SIZE, SIZE],
            "speed": against_others(),
            "cost_in_a_step": against_a_step(),
            "mask_share_error": exactness(),
        },
    )
