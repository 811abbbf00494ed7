"""The Python blocks of the mixing pages, run on a small network: the loss is finite and the weights move."""

import re
from pathlib import Path

import pytest
import torch

import lightning_rectify
from lightning_rectify.backbones import ResNet

DOCS = Path(lightning_rectify.__file__).parent / "docs"
PAGES = ("mixup", "cutmix", "fmix", "dirichlet_mixup", "manifold_mixup", "alternate")
BLOCKS = [
    pytest.param(text, id=f"{page}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.S))
]


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block):
    model = ResNet(4, 3, depth=8, width=8)
    image, label = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    before = image.clone(), [parameter.detach().clone() for parameter in model.parameters()]
    names = {
        "image": image,
        "label": label,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "loader": [(image, label)] * 2,
    }
    exec(compile(block, "snippet", "exec"), names)
    loss = names["loss"]
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert torch.equal(image, before[0])
    if "optimizer.step()" in block:
        assert not all(torch.equal(p, old) for p, old in zip(model.parameters(), before[1], strict=True))
    else:
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
