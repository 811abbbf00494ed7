"""What the study of a model costs: each method's map in forward and backward passes, and the parts of `explain`.

    python benchmarks/explain_cost.py          # writes results/explain_cost.json

A ResNet-8 on 16 images of 28x28 pixels, one thread. A map is compared with one forward pass without gradients and one
backward pass to the image, in turn with them; `declared` is what the table of methods says, by which a method is
measured on fewer images or drawn less often.
"""

import tempfile
import time
from pathlib import Path

import torch
from measure import interleaved, write_result

from lightning_rectify.attribution import input_gradient
from lightning_rectify.attribution.methods import METHODS
from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks.panel import Panel
from lightning_rectify.commands.explain import DEFAULT_METHODS
from lightning_rectify.commands.method_measures import measure_methods, measure_model
from lightning_rectify.commands.study_files import write_study

IMAGES = 16


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = ResNet(10, channels=1, depth=8, width=16, mean=[0.3], std=[0.35]).eval()
    image, label = torch.rand(IMAGES, 1, 28, 28), torch.arange(IMAGES) % 10

    @torch.no_grad()
    def forward():
        net(image)

    def both():
        input_gradient(net, image, label)

    cheap = {name: method for name, method in METHODS.items() if method.passes <= 64}
    dear = {name: method for name, method in METHODS.items() if name not in cheap}
    methods = {}
    for group, repeats in ((cheap, 5), (dear, 1)):
        calls = {name: lambda m=method: m.explain(net, image, label, "layer3") for name, method in group.items()}
        times = interleaved({"forward": forward, "forward and backward": both, **calls}, repeats, warmup=1)
        for name in group:
            methods[name] = {
                "ms_an_image": round(times[name].milliseconds / IMAGES, 2),
                "forward_passes": round(times[name].slower_than(times["forward"]), 1),
                "forward_and_backward": round(times[name].slower_than(times["forward and backward"]), 1),
                "declared": METHODS[name].passes,
            }
    panel = Panel(list(range(IMAGES)), label, image)
    parts = {}

    def timed(name, part):
        start = time.perf_counter()
        found = part()
        parts[name] = round(time.perf_counter() - start, 2)
        return found

    maps = timed("maps", lambda: {n: METHODS[n].explain(net, image, label, "layer3") for n in DEFAULT_METHODS})
    measured = timed("measures", lambda: measure_methods(net, panel, DEFAULT_METHODS, "layer3", "cpu"))
    whole = timed("measures of the model", lambda: measure_model(net, panel, "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        timed("files", lambda: write_study(Path(folder), net, None, panel, "layer3", maps, {}, measured, whole, "cpu"))
    write_result("explain_cost", {"images": IMAGES, "methods": methods, "seconds of explain": parts})


if __name__ == "__main__":
    main()
