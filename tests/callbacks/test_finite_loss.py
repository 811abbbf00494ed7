from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from processes import run_ranks
from torch import nn
from torch.utils.data import DataLoader

from lightning_rectify.callbacks import FiniteLoss
from lightning_rectify.errors import RectifyError


class Net(pl.LightningModule):
    """A regression whose loss or gradient turns bad at one batch."""

    def __init__(self, fault=None, at=3):
        super().__init__()
        self.layer, self.fault, self.at = nn.Linear(4, 2), fault, at
        self.history = []

    def training_step(self, batch, batch_idx):
        self.history.append([p.detach().clone() for p in self.parameters()])
        loss = self.layer(batch).square().mean()
        spoil = torch.tensor(float("nan" if self.fault == "nan" else "inf")) if self.fault in ("nan", "inf") else None
        if batch_idx == self.at and self.fault == "gradient":
            loss = loss + self.layer.weight.sub(self.layer.weight.detach()).square().sum().sqrt()  # d sqrt(x) at 0
        elif batch_idx == self.at and spoil is not None:
            self.log("train/kl", spoil)
            loss = loss * spoil
        self.log("train/fine", loss.detach().new_ones(()))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def fit(net, folder, *callbacks, **options):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=folder, callbacks=list(callbacks), logger=False,
        enable_progress_bar=False, enable_model_summary=False, **{"enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(net, DataLoader(torch.ones(6, 4)))
    return trainer


@pytest.mark.parametrize("fault", ["nan", "inf", "gradient"])
def test_stops_before_the_update(tmp_path, fault):
    torch.manual_seed(0)
    net = Net(fault)
    with pytest.raises(RectifyError, match="of Net is not finite at step 3 on rank 0") as caught:
        fit(net, tmp_path, FiniteLoss())
    for parameter, before in zip(net.parameters(), net.history[-1], strict=True):
        assert torch.equal(parameter, before)
    assert ("train/kl" in str(caught.value)) == (fault != "gradient")
    assert "train/fine" not in str(caught.value)
    assert str(caught.value).startswith("The gradient" if fault == "gradient" else "The loss")


def test_lightning_alone_trains_through_nan(tmp_path):
    net = Net("nan")
    fit(net, tmp_path)
    assert not any(p.isfinite().any() for p in net.parameters()), "upstream changed: FiniteLoss may be superfluous"


def test_a_bad_micro_batch_of_an_accumulated_step(tmp_path):
    net = Net("nan", at=2)
    with pytest.raises(RectifyError, match="at step 1"):
        fit(net, tmp_path, FiniteLoss(gradients=False), accumulate_grad_batches=2)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), net.history[-1], strict=True))


def test_training_is_bit_identical_with_and_without(tmp_path):
    weights = []
    for callbacks in ([], [FiniteLoss()]):
        torch.manual_seed(0)
        net = Net()
        fit(net, tmp_path, *callbacks)
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_nothing_is_saved_afterwards(tmp_path):
    saver = pl.callbacks.OnExceptionCheckpoint(tmp_path, "crash")
    with pytest.raises(RectifyError, match="not finite"):
        fit(Net("nan"), tmp_path, FiniteLoss(), saver, enable_checkpointing=True)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_one_bad_rank_stops_all():
    first, second = run_ranks(Path(__file__).with_name("ranks_finite_loss.py"))
    assert first["clean"]["message"] == second["clean"]["message"] == ""
    for strategy in sorted(first.keys() - {"clean"}):
        assert first[strategy]["message"] == second[strategy]["message"], strategy
        for rank in (first, second):
            assert "at step 3 on rank 1 (not finite: train/loss)" in rank[strategy]["message"], strategy
            assert rank[strategy]["kept"] and rank[strategy]["step"] == 3, strategy
