"""What saliency costs: NormGrad at all layers, RISE, and the callback in a Fashion-MNIST epoch.

    python benchmarks/saliency.py                 # writes results/saliency.json

One thread. Competitors take turns; ratios are medians over rounds. The callback's share is the one it logs itself
(`val/saliency/cost`), of a whole epoch with validation, in the epoch in which everything is due.
"""

import tempfile
import time
import warnings

import torch
from measure import interleaved, keep_freed_memory, write_result
from pytorch_lightning import Trainer

from lightning_rectify.attribution import class_sensitivity, norm_grad, norm_grad_layers, random_masks, rise_classes
from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks import SaliencyMaps
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.frozen import frozen_eval
from lightning_rectify.lightning_modules import Classifier

LAYERS = ["stem", "layer1", "layer2", "layer3"]
MASKS = 1024
TARGETS = {"norm_grad_over_one_pass": 1.2, "rise_speedup": 2.0, "callback_share": 0.03}


def against_one_pass():
    """NormGrad of all stages beside one forward and backward pass, to the image and to the weights, and a loop."""
    torch.manual_seed(0)
    model = ResNet(10, channels=3, depth=18, width=32).eval()
    images, target = torch.rand(16, 3, 32, 32), torch.arange(16) % 10

    def to_image():
        with frozen_eval(model, input_gradients=True):
            leaf = images.clone().requires_grad_()
            torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)

    def to_weights():
        model(images).gather(1, target[:, None]).sum().backward()

    layers = [*LAYERS, "layer4"]
    times = interleaved(
        {
            "one_pass": to_image,
            "training_pass": to_weights,
            "all_layers": lambda: norm_grad_layers(model, images, target, layers),
            "loop_over_layers": lambda: [norm_grad(model, images, target, layer) for layer in layers],
            "class_sensitivity": lambda: class_sensitivity(model, images, layers),
        },
        repeats=12,
        warmup=2,
    )
    base = times["one_pass"]
    return {name: {"ms": timing.milliseconds, "over_one_pass": round(timing.slower_than(base), 3)}
            for name, timing in times.items()}  # fmt: skip


def against_a_loop():
    """RISE with 1,024 masks beside a loop over single masks that does the same."""
    torch.manual_seed(0)
    model = ResNet(10, channels=1, depth=8).eval()
    image = torch.rand(1, 1, 28, 28)
    masks = random_masks(MASKS, (28, 28))

    def loop():
        total = torch.zeros(10, 28, 28)
        with torch.no_grad():
            for mask in masks:
                total += model(image * mask).softmax(1)[0].view(-1, 1, 1) * mask
        return total / (MASKS * masks.mean())

    torch.testing.assert_close(rise_classes(model, image, masks)[0], loop(), rtol=1e-4, atol=1e-5)
    times = interleaved({"rise": lambda: rise_classes(model, image, masks), "loop": loop}, repeats=5, warmup=1)
    return {
        "masks": MASKS,
        "ms": times["rise"].milliseconds,
        "loop_ms": times["loop"].milliseconds,
        "speedup": round(times["loop"].slower_than(times["rise"]), 2),
    }


def in_an_epoch():
    """The share of a Fashion-MNIST epoch in which everything is due, and what one more drawing takes."""
    torch.manual_seed(0)
    data = ShardDataModule("fashion_mnist", batch_size=128, eval_batch_size=512)
    backbone = ResNet(10, channels=1, depth=8, mean=[0.2859], std=[0.353])
    module = Classifier(backbone, optimizer=lambda weights: torch.optim.SGD(weights, 0.05, momentum=0.9))
    look = SaliencyMaps()
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, "num_sanity_val_steps": 0, "default_root_dir": folder,
        }  # fmt: skip
        trainer = Trainer(max_epochs=1, callbacks=[look], **options)
        start = time.perf_counter()
        trainer.fit(module, data)
        seconds = time.perf_counter() - start
        share = float(trainer.callback_metrics["val/saliency/cost"])
        usual = SaliencyMaps(thorough_every_n_epochs=0)
        usual.panel = look.panel
        trainer = Trainer(callbacks=[usual], limit_val_batches=1, **options)
        trainer.validate(module, data, verbose=False)
        drawing = usual._seconds
    return {
        "epoch_seconds": round(seconds, 1),
        "callback_seconds_when_all_is_due": round(look._seconds, 2),
        "share_when_all_is_due": round(share, 4),
        "callback_seconds_otherwise": round(drawing, 2),
        "share_otherwise": round(drawing / seconds, 4),
        "share_at_the_default_schedule": round((look._seconds + 4 * drawing) / (5 * seconds), 4),
    }


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    passes, masks, epoch = against_one_pass(), against_a_loop(), in_an_epoch()
    reached = {
        "norm_grad_over_one_pass": passes["all_layers"]["over_one_pass"],
        "rise_speedup": masks["speedup"],
        "callback_share": epoch["share_at_the_default_schedule"],
    }
    verdicts = {}
    for name, value in reached.items():
        holds = value >= TARGETS[name] if name == "rise_speedup" else value <= TARGETS[name]
        verdicts[name] = {"measured": value, "target": TARGETS[name], "holds": holds}
        print(f"{'holds' if holds else 'FAILED'}: {name} {value}, target {TARGETS[name]}")
    write_result("saliency", {"norm_grad": passes, "rise": masks, "callback": epoch, "verdicts": verdicts})


if __name__ == "__main__":
    main()
