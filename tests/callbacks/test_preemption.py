import csv
import os
import signal
import stat
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_rectify.callbacks import EMA, Preempted, Preemption, config_fingerprint, find_resume
from lightning_rectify.errors import RectifyError
from lightning_rectify.strategies import AtomicCheckpoint


class Loader:
    """Batches are a function of (epoch, position), and the position is saved, as in the project's own loader."""

    def __init__(self, batches=7):
        self.batches, self.epoch, self.done = batches, 0, 0

    def __len__(self):
        return self.batches

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        start, self.done = self.done, 0
        for position in range(start, self.batches):
            self.position = position + 1
            yield torch.randn(4, 4, generator=torch.Generator().manual_seed(100 * self.epoch + position))
        self.position = 0

    def state_dict(self):
        return {"done": self.position % self.batches}

    def load_state_dict(self, state):
        self.done = state["done"]


class Net(pl.LightningModule):
    def __init__(self, signal_at=None, send=signal.SIGUSR1, batches=7):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)
        self.signal_at, self.send, self.losses, self.validated = signal_at, send, [], []
        self.loader = Loader(batches)

    def train_dataloader(self):
        return self.loader

    def on_train_epoch_start(self):
        self.loader.set_epoch(self.current_epoch)

    def on_train_start(self):
        self.loader.set_epoch(self.current_epoch)

    def val_dataloader(self):
        return DataLoader(torch.ones(2, 4))

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.global_step)

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.signal_at:
            os.kill(os.getpid(), self.send)
        loss = (self.layer(batch) - 1).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(net, folder, callback, ckpt_path=None, **options):
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=callback if isinstance(callback, list) else [callback],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        **{"enable_checkpointing": False, "max_epochs": 3, "logger": False, **options},
    )  # fmt: skip
    trainer.fit(net, ckpt_path=ckpt_path, weights_only=True)
    return net


def fake_scontrol(folder, monkeypatch, code=0, job="17", **env):
    script = folder / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\necho "no such job" >&2\nexit {code}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return folder / "scontrol.log"


@pytest.mark.parametrize("signal_at", [(0, 0), (1, 3), (1, 6), (2, 5)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_resumed_run_equals_an_undisturbed_one(tmp_path, signal_at, accumulate):
    whole = fit(Net(), tmp_path / "whole", Preemption(fingerprint="a"), accumulate_grad_batches=accumulate)
    first, folder = Net(signal_at), tmp_path / "cut"
    with pytest.raises(Preempted) as ended:
        fit(first, folder, Preemption(fingerprint="a"), accumulate_grad_batches=accumulate)
    assert ended.value.code == 0
    resume = find_resume(folder, "a")
    assert resume is not None and [path.name for path in folder.iterdir()] == [resume.name]
    second = fit(Net(), folder, Preemption(fingerprint="a"), resume, accumulate_grad_batches=accumulate)
    assert first.losses + second.losses == whole.losses
    assert first.validated + second.validated == whole.validated
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    assert not list(folder.iterdir()), "the checkpoint is deleted when training is complete"


def rows(folder):
    """What was logged, over all starts."""
    logs = sorted(folder.glob("csv/version_*/metrics.csv"))
    found = [row for log in logs for row in csv.DictReader(log.open())]
    return [(row["epoch"], row["step"], key, row[key]) for row in found for key in row if key == "loss" and row[key]]


class Averaged(Net):
    """It logs, and it acts itself at the end of a batch."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.backbone = self.layer
        self.register_buffer("ends", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *_):
        self.ends += 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("signal_at", "batches"), [((1, 3), 7), ((1, 0), 1), ((1, 6), 7)])
def test_it_acts_after_everything_else_in_any_order(tmp_path, first, signal_at, batches):
    def run(net, folder, resume=None):
        pair = [Preemption(fingerprint="a"), EMA(decay=0.5)]
        logger = pl.loggers.CSVLogger(folder, name="csv")
        options = {"logger": logger, "log_every_n_steps": 1, "plugins": [AtomicCheckpoint()]}
        return fit(net, folder, pair if first else pair[::-1], resume, max_epochs=4, **options)

    whole = run(Averaged(batches=batches), tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(Preempted):
        run(Averaged(signal_at, batches=batches), folder)
    second = run(Averaged(batches=batches), folder, find_resume(folder, "a"))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    assert rows(folder) == rows(tmp_path / "whole") and len(rows(folder)) == 4 * batches


@pytest.mark.parametrize(
    ("batches", "options", "saved"),
    [(1, {}, 2), (7, {"accumulate_grad_batches": 7}, 2), (2, {"val_check_interval": 1}, 4)],
)
def test_an_epoch_may_be_one_step(tmp_path, batches, options, saved):
    """No step is without a validation, so the run is saved between the epochs."""
    whole = fit(Net(batches=batches), tmp_path / "whole", Preemption(), **options)
    folder, first = tmp_path / "cut", Net((1, 0), batches=batches)
    with pytest.raises(Preempted):
        fit(first, folder, Preemption(fingerprint="a"), **options)
    resume = find_resume(folder, "a")
    assert resume.name == f"preempt-{saved}.ckpt"
    second = fit(Net(batches=batches), folder, Preemption(), resume, **options)
    assert first.losses + second.losses == whole.losses
    assert first.validated + second.validated == whole.validated
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(("every", "saved"), [(7, 7), (3, 6), (100, 7)])
def test_every_n_steps_counts_from_the_last_agreement(tmp_path, every, saved):
    with pytest.raises(Preempted):
        fit(Net((0, 4)), tmp_path, Preemption(every_n_steps=every, fingerprint="a"))
    assert find_resume(tmp_path, "a").name == f"preempt-{saved}.ckpt"


def test_a_run_with_a_limit_of_steps_is_saved_within_an_epoch(tmp_path):
    whole = fit(Net(), tmp_path / "whole", Preemption(), max_steps=17, max_epochs=-1)
    first, folder = Net((0, 6)), tmp_path / "cut"
    with pytest.raises(Preempted):
        fit(first, folder, Preemption(fingerprint="a"), max_steps=17, max_epochs=-1)
    resume = find_resume(folder, "a")
    second = fit(Net(), folder, Preemption(), resume, max_steps=17, max_epochs=-1)
    assert resume.name == "preempt-8.ckpt" and first.losses + second.losses == whole.losses


def test_a_signal_in_the_very_last_batch_changes_nothing(tmp_path):
    net = fit(Net((2, 6)), tmp_path, Preemption())
    assert len(net.losses) == 21


def test_validation_within_the_epoch_is_not_left_out(tmp_path):
    whole = fit(Net(), tmp_path, Preemption(fingerprint="a"), val_check_interval=3)
    first = Net((1, 2))  # a validation follows this batch
    with pytest.raises(Preempted):
        fit(first, tmp_path, Preemption(fingerprint="a"), val_check_interval=3)
    second = fit(Net(), tmp_path, Preemption(), find_resume(tmp_path, "a"), val_check_interval=3)
    assert first.validated + second.validated == whole.validated


def test_the_handler_is_taken_back_after_the_fit(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    fit(Net(), tmp_path, Preemption())
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(
    ("env", "job"), [({}, "17"), ({"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "3"}, "16_3")]
)
def test_the_slurm_job_is_requeued_once(tmp_path, monkeypatch, env, job):
    log = fake_scontrol(tmp_path, monkeypatch, **env)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        fit(Net((0, 2), signal.SIGUSR2), tmp_path, Preemption(signal="SIGUSR2"))
    assert log.read_text() == f"requeue {job}\n"
    signal.signal(signal.SIGTERM, handler)


def test_a_refused_requeue_is_said_and_the_checkpoint_kept(tmp_path, monkeypatch):
    fake_scontrol(tmp_path, monkeypatch, code=1)
    with pytest.raises(RectifyError, match=r"did not requeue the job .no such job.; submit it again with --ckpt_path"):
        fit(Net((0, 2)), tmp_path, Preemption(fingerprint="a"))
    assert find_resume(tmp_path, "a").name == "preempt-3.ckpt"


def test_the_number_of_requeues_is_bounded_over_restarts(tmp_path):
    with pytest.raises(Preempted):
        fit(Net((0, 1)), tmp_path, Preemption(max_requeues=2, fingerprint="a"))
    with pytest.raises(Preempted):
        fit(Net((0, 3)), tmp_path, Preemption(max_requeues=2, fingerprint="a"), find_resume(tmp_path, "a"))
    with pytest.raises(RectifyError, match="max_requeues: the run was interrupted 3 times"):
        fit(Net((1, 3)), tmp_path, Preemption(max_requeues=2, fingerprint="a"), find_resume(tmp_path, "a"))


def test_a_stale_checkpoint_is_refused(tmp_path):
    with pytest.raises(Preempted):
        fit(Net((0, 1)), tmp_path, Preemption(fingerprint="a"))
    with pytest.raises(RectifyError, match=r"preempt-2.ckpt was saved by another configuration; choose another --name"):
        find_resume(tmp_path, "b")


def test_the_newest_checkpoint_wins_and_others_are_passed_over(tmp_path):
    assert find_resume(tmp_path, "a") is None
    last = pl.callbacks.ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    with pytest.raises(Preempted):
        fit(Net((0, 1)), tmp_path, Preemption(fingerprint="a"))
    (tmp_path / "preempt-9.ckpt").write_bytes(b"torn")
    assert find_resume(tmp_path, "a").name == "preempt-2.ckpt"

    class Kept(Preemption):
        def on_train_end(self, trainer, pl_module):
            pass

    torch.save({"global_step": 99}, tmp_path / "checkpoints-last.ckpt")
    net, callback = Net(), Preemption(fingerprint="a")
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, callbacks=[callback, last], logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(net)
    assert find_resume(tmp_path, "a").name == "last.ckpt"
    assert find_resume(tmp_path, "b") is None, "a last.ckpt of another configuration is not this run's"


class Folders(pl.plugins.io.TorchCheckpointIO):
    """Checkpoints are folders, as DeepSpeed writes them."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        Path(path).mkdir(parents=True)
        torch.save(checkpoint, Path(path) / "all.pt")

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(Path(path) / "all.pt", weights_only=True)


def test_a_checkpoint_that_is_a_folder_is_not_touched(tmp_path):
    whole = fit(Net(), tmp_path / "whole", Preemption())
    folder = tmp_path / "cut"
    with pytest.raises(Preempted):
        fit(Net((1, 3)), folder, Preemption(fingerprint="a"), plugins=[Folders()])
    resume = find_resume(folder, "a")
    assert [path.name for path in resume.iterdir()] == ["all.pt"], "a sealed folder takes no other file"
    with pytest.raises(RectifyError, match="was saved by another configuration"):
        find_resume(folder, "b")
    second = fit(Net(), folder, Preemption(), resume, plugins=[Folders()])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    assert not list(folder.iterdir())


def test_fingerprint_ignores_what_does_not_change_the_training():
    config = "model: {lr: 0.1}\ntrainer: {max_epochs: 3, devices: 1}\nckpt_path: null\n"
    same = "ckpt_path: a.ckpt\ntrainer: {devices: 2, num_nodes: 2, max_epochs: 3}\nmodel: {lr: 1.0e-1}\n"
    assert config_fingerprint(config) == config_fingerprint(same)
    assert config_fingerprint(config) != config_fingerprint(config.replace("0.1", "0.2"))
    assert config_fingerprint(config) == config_fingerprint({"model": {"lr": 0.1}, "trainer": {"max_epochs": 3}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signal": "SIGKILL"}, "Preemption.signal: 'SIGKILL' cannot be used; choose SIGUSR1"),
        ({"max_requeues": 0}, "Preemption.max_requeues: 0 is too small"),
        ({"every_n_steps": 0}, "Preemption.every_n_steps: 0 is too small"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(RectifyError, match=message):
        Preemption(**options)
