import csv
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from processes import run_ranks
from torch import nn
from torch.utils.data import DataLoader

import lightning_rectify
from lightning_rectify.callbacks import EMA, Preempted, Preemption, config_fingerprint, find_resume
from lightning_rectify.callbacks._warning_signal import hand_back, watch_start_up
from lightning_rectify.errors import RectifyError
from lightning_rectify.strategies import AtomicCheckpoint

ROOT = Path(lightning_rectify.__file__).parent


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
        enable_progress_bar=False, enable_model_summary=False,
        **{"enable_checkpointing": False, "max_epochs": 3, "logger": False, "num_sanity_val_steps": 0, **options},
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


class Watched(Net):
    """It is warned outside of training."""

    def __init__(self, during):
        super().__init__()
        self.during, self.tested = during, 0

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if self.trainer.sanity_checking and self.during == "sanity":
            os.kill(os.getpid(), signal.SIGUSR1)

    def test_dataloader(self):
        return DataLoader(torch.ones(6, 4), batch_size=2)

    def test_step(self, batch, batch_idx):
        self.tested += 1
        if batch_idx == 0 and self.during == "test":
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def handlers():
    """Whatever a test does with signals is undone."""
    kinds = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    before = [signal.getsignal(kind) for kind in kinds]
    for kind in kinds:
        signal.signal(kind, signal.SIG_DFL)
    yield
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


@pytest.mark.parametrize("during", ["imports", "sanity"])
def test_a_signal_before_training_requeues_without_saving(tmp_path, monkeypatch, handlers, during):
    log = fake_scontrol(tmp_path, monkeypatch)
    if during == "imports":
        watch_start_up(["fit", "-c", "quickstart"])
        os.kill(os.getpid(), signal.SIGUSR1)
    net = Watched(during)
    with pytest.raises(Preempted, match="nothing to save"):
        fit(net, tmp_path / "run", Preemption(), num_sanity_val_steps=1)
    assert log.read_text() == "requeue 17\n" and net.losses == []
    assert not list(tmp_path.glob("run/preempt*"))


@pytest.mark.parametrize("slurm", [True, False])
def test_a_signal_in_the_final_test(tmp_path, monkeypatch, handlers, slurm):
    log = fake_scontrol(tmp_path, monkeypatch) if slurm else None
    net = Watched("test")
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, max_epochs=1, callbacks=[Preemption()], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(net)
    if slurm:
        with pytest.raises(Preempted, match="the test is to be repeated"):
            trainer.test(net, verbose=False)
        assert net.tested == 1 and log.read_text() == "requeue 17\n"
    else:
        trainer.test(net, verbose=False)
        assert net.tested == 3
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_start_up_is_watched_where_a_requeue_is_possible(monkeypatch, handlers):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for arguments, watched in (
        (["fit"], False),
        (["test", "Preemption"], False),
        (["fit", "callbacks/preemption"], True),
    ):
        watch_start_up(arguments)
        assert (signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL) == watched
    hand_back(kept=[signal.SIGUSR1])
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    came = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: came.append(signum))
    signal.raise_signal(signal.SIGUSR1)
    hand_back(kept=[])
    assert came == [signal.SIGUSR1], "a warning nobody waits for does what it did before: it ends the process"


def test_the_command_line_watches_before_it_imports_torch(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "fit", "-c", "callbacks/preemption", "--nonsense", "1"]
    with open(tmp_path / "output", "w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path)
        folder, bit = Path(f"/proc/{process.pid}"), 1 << (signal.SIGUSR1 - 1)
        while not int(re.search(r"SigCgt:\s*(\w+)", (folder / "status").read_text())[1], 16) & bit:
            assert process.poll() is None
        assert "libtorch" not in (folder / "maps").read_text()
        process.send_signal(signal.SIGUSR1)
        assert process.wait(600) == 2, "it goes on, to the error of the command line"
        output.seek(0)
        assert "nonsense" in output.read()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_ranks(Path(__file__).with_name("ranks_preemption.py"), str(tmp_path_factory.mktemp("ranks")))


def test_a_signal_at_one_rank_stops_all_at_the_same_step(ranks):
    assert [rank["stopped"] for rank in ranks] == ["Preempted", "Preempted"]
    assert [rank["steps"] for rank in ranks] == [3, 3] and ranks[0]["saved"] == ["preempt-3.ckpt"]


@pytest.mark.parametrize("case", ["write", "rename"])
def test_a_rank_that_cannot_save_does_not_leave_the_others_waiting(ranks, case):
    assert ranks[0][case] == "OSError: no space left"
    assert ranks[1][case].startswith("RectifyError: Preemption: ") and "(no space left)" in ranks[1][case]
    assert ranks[0]["seconds"] < 30


def test_requeues_that_saved_nothing_are_bounded(tmp_path, monkeypatch, handlers):
    fake_scontrol(tmp_path, monkeypatch, SLURM_RESTART_COUNT="20")
    with pytest.raises(RectifyError, match=r"max_requeues: the run was interrupted 21 times\. Ask"):
        fit(Watched("sanity"), tmp_path, Preemption(), num_sanity_val_steps=1)


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


def test_the_newest_checkpoint_wins_and_others_are_passed_over(tmp_path, monkeypatch):
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
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert find_resume(tmp_path, "a").name == "last.ckpt"
    with pytest.raises(RectifyError, match=r"last.ckpt was saved by another configuration; choose another --name"):
        find_resume(tmp_path, "b")  # a requeued job would start over and overwrite it


def test_a_folder_may_hold_its_own_note(tmp_path):
    folder = tmp_path / "checkpoints" / "last.ckpt"
    folder.mkdir(parents=True)
    assert find_resume(tmp_path, "a") is None
    (folder / "rectify.json").write_text('{"fingerprint": "a", "step": 12}')
    assert find_resume(tmp_path, "a") == folder and find_resume(tmp_path, "b") is None
    newer = tmp_path / "preempt-13.ckpt"
    newer.mkdir()
    (newer / "rectify.json").write_text('{"fingerprint": "a", "step": 13}')
    assert find_resume(tmp_path, "a") == newer


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
