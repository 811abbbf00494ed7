"""One canary for each upstream behaviour that something here works around.

A canary that fails says that the behaviour is gone and names the workaround that may go with it.
"""

import inspect
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from processes import run_ranks
from torch import nn
from torch.utils.data import DataLoader


def unchanged(holds, workaround):
    assert holds, f"upstream changed: {workaround} may no longer be needed"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """What a process of its own saw (one launch for all)."""
    script = Path(__file__).with_name("ranks_canaries.py")
    return run_ranks(script, str(tmp_path_factory.mktemp("canaries")), world_size=1, env={"WDS_SECURE": "0"})[0]


def test_lightning_and_deepspeed_both_divide_by_the_accumulation(fresh):
    assert fresh["double_division"] in (pytest.approx(0.5), pytest.approx(1.0)), fresh
    unchanged(fresh["double_division"] == pytest.approx(0.5), "scale_wrt_gas=False in strategies/deepspeed.py")


def test_deepspeed_bf16_rounds_master_weights(fresh):
    unchanged(fresh["bf16_masters"] > 1e-6, "torch_autocast in strategies/deepspeed.py")


def test_deepspeed_guesses_the_batch_size_from_a_batch_sampler(fresh):
    unchanged("batch_size" in fresh["dict_loader"], "logging_batch_size_per_gpu in strategies/deepspeed.py")


def test_zero3_cannot_test_from_its_own_folder(fresh):
    unchanged("_restore_from_bit16_weights" in fresh["zero3_test"], "load_checkpoint in strategies/deepspeed.py")


def test_deepspeed_loads_with_full_pickle():
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    source = inspect.getsource(TorchCheckpointEngine.load)
    unchanged("weights_only=False" in source, "the seals of strategies/sealing.py")


def test_a_backward_inside_the_step_breaks_zero2(fresh):
    unchanged("already been reduced" in fresh["backward_attack"], "autograd.grad instead of backward in attacks/")


def test_an_optimizer_built_before_sharding_trains_nothing(fresh):
    early, late = fresh["early_optimizer"]
    assert late > 0
    unchanged(early == 0, "OptimizerCallable in lightning_modules/rectifier.py")


def test_fsdp2_loses_hooks_set_before_sharding(fresh):
    unchanged(fresh["early_hook"] == 0, "gradient hooks in on_fit_start of callbacks that mask weights")


def test_deepspeed_compiles_an_extension_on_cpu(fresh):
    unchanged(fresh["shm_listed"], "switching off deepspeed_shm_comm in strategies/deepspeed.py")


def test_webdataset_runs_pickles_while_decoding(fresh):
    unchanged(fresh["pickled_shard"], "explicit decoders and WDS_SECURE in datamodules/")


def test_webdataset_runs_a_shell(fresh):
    unchanged(fresh["piped_shard"], "WDS_SECURE in datamodules/")


def test_webdataset_repeats_a_seeded_shuffle(fresh):
    first, second = fresh["shuffled_order"]
    assert len(first) == 20 and first != sorted(first)
    unchanged(first == second, "the order f(seed, epoch) of datamodules/")


def test_a_config_may_name_os_system(fresh):
    unchanged(fresh["os_system"] is True, "the import allow-list of the command line")


class Scalar(pl.LightningModule):
    def __init__(self, alpha: float = 0.0):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum() * self.hparams.alpha

    def train_dataloader(self):
        return DataLoader(torch.ones(2, 1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def test_lightning_trains_through_a_nan_loss(tmp_path):
    module = Scalar(alpha=float("nan"))
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
    trainer.fit(module)
    unchanged(not module.layer.weight.isfinite().all(), "callbacks/finite_loss.py")


def test_hyperparameters_of_a_checkpoint_beat_the_command_line(tmp_path, monkeypatch):
    from pytorch_lightning.cli import LightningCLI

    monkeypatch.chdir(tmp_path)
    options = {"run": True, "save_config_callback": None, "trainer_defaults": {**QUIET, "devices": 1}}
    arguments = ["fit", "--trainer.max_epochs=1", "--trainer.enable_checkpointing=false"]
    cli = LightningCLI(Scalar, args=[*arguments, "--model.alpha=0.3"], **options)
    cli.trainer.save_checkpoint("c.ckpt")
    again = LightningCLI(Scalar, args=[*arguments, "--model.alpha=0.77", "--ckpt_path=c.ckpt"], **options)
    unchanged(again.model.hparams.alpha == 0.3, "no save_hyperparameters in lightning_modules/rectifier.py")


def test_torchmetrics_has_a_bin_for_confidence_one_alone():
    from torchmetrics.functional.classification import binary_calibration_error

    # one bin [0, 1]: confidences 1.0 (wrong) and 0.5 (right) average to |0.75 - 0.5|
    error = binary_calibration_error(torch.tensor([1.0, 0.5]), torch.tensor([0, 1]), n_bins=1).item()
    unchanged(error != pytest.approx(0.25), "our own calibration metrics instead of CalibrationError")


def test_decoupled_decay_moves_weights_without_gradient():
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1).step()
    unchanged(weight.item() != 1, "the rule masked_decay of strategies/guard.py")


def test_lightning_refuses_a_second_config_in_a_run_folder():
    from pytorch_lightning.cli import SaveConfigCallback

    parameters = inspect.signature(SaveConfigCallback.__init__).parameters
    unchanged(parameters["overwrite"].default is False, "the numbered run folders of the command line")


def test_deepspeed_wants_its_own_optimizer_for_offload():
    from deepspeed.runtime.constants import ZERO_FORCE_DS_CPU_OPTIMIZER_DEFAULT

    unchanged(ZERO_FORCE_DS_CPU_OPTIMIZER_DEFAULT, "zero_force_ds_cpu_optimizer in strategies/deepspeed.py")


def test_lightning_ignores_sync_batchnorm_outside_ddp():
    from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy

    assert "_layer_sync" in inspect.getsource(DDPStrategy.setup)
    for strategy in (DeepSpeedStrategy, ModelParallelStrategy):
        unchanged("_layer_sync" not in inspect.getsource(strategy), "the rule sync_batchnorm of strategies/guard.py")


class Counted:
    """Four batches and a position."""

    def __init__(self):
        self.position, self.loaded = 0, False

    def __len__(self):
        return 4

    def __iter__(self):
        while self.position < 4:
            self.position += 1
            yield torch.ones(1, 1)
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.loaded = True


class Measured(Scalar):
    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 4
        return super().configure_optimizers()


def test_a_loader_is_not_restored_after_the_length_of_training_was_asked_for(tmp_path):
    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    pl.Trainer(max_epochs=1, callbacks=[save], **QUIET).fit(Measured(), Counted())
    loader = Counted()
    pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(
        Measured(), loader, ckpt_path=tmp_path / "step=2.ckpt"
    )
    unchanged(not loader.loaded, "the state of ShardDataModule")


class Worsening(Scalar):
    def validation_step(self, batch, batch_idx):
        self.log("val/score", float(-self.current_epoch))


def test_save_last_keeps_the_state_of_the_last_best_epoch(tmp_path):
    save = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/score", mode="max", save_last=True)
    batches = DataLoader(torch.ones(2, 1))
    pl.Trainer(max_epochs=3, callbacks=[save], num_sanity_val_steps=0, **QUIET).fit(Worsening(), batches, batches)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    unchanged(last["epoch"] < 2, "the second ModelCheckpoint in commands/cli.py")
