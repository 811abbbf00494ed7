"""The command calibrate: load the weights, calibrate the model, say what became of it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities import rank_zero_info

from .calibrate import CONFIG, calibrate, own_backbone
from .checkpoint_notes import kept_notes
from .starting_weights import load_starting_weights, read_checkpoint

SHOWN = ("accuracy", "nll", "brier", "ece_top_label_l1", "ece_top_label_smooth", "ece_class_wise_l1", "signed_gap")


def calibrate_command(cli: Any, ckpt_path: str | None, init_from: str | None, **options: Any) -> None:
    """Calibrate the model of a command line into its run folder, in all processes of its trainer.

    Args:
        cli: the command line, with trainer, model and data built.
        ckpt_path: weights to load.
        init_from: the file whose weights are loaded already, else.
        options: `maps`, `score` and `folds` of `calibrate`.

    Raises:
        RectifyError: a checkpoint in shards, or what `calibrate` refuses.
    """
    backbone = own_backbone(cli.model)
    if ckpt_path:
        load_starting_weights(backbone, ckpt_path)
    notes = kept_notes(read_checkpoint(str(ckpt_path or init_from), "--ckpt_path" if ckpt_path else "--init_from"))
    launcher = cli.trainer.strategy.launcher
    if launcher is None:
        _calibrate(cli, notes, options)
    else:
        launcher.launch(_calibrate, cli, notes, options)


def _calibrate(cli: Any, notes: dict[str, Any], options: dict[str, Any]) -> None:
    """In each process of the trainer: join the others, read the data, calibrate."""
    strategy = cli.trainer.strategy
    strategy.setup_environment()
    cli.datamodule.trainer = cli.trainer
    if cli.trainer.local_rank == 0:
        cli.datamodule.prepare_data()
    strategy.barrier()
    cli.datamodule.setup("test")
    config: Any = getattr(cli._get(cli.config, "model"), "backbone", None)
    plain = config.as_dict() if hasattr(config, "as_dict") else None
    plugin = cli.trainer.precision_plugin
    result = calibrate(
        cli.model,
        cli.datamodule,
        cli.run_folder,
        backbone_config=plain,
        device=strategy.root_device,
        notes=notes,
        # of a network that is float32 itself; a precision of the weights is a matter of the run that loads them
        precision=plugin.forward_context if isinstance(plugin, MixedPrecision) else nullcontext,
        **options,
    )
    if not result["calibration_errors"]:
        rank_zero_info("Every validation sample is predicted right: how sure the network may be is a guess.")
    rank_zero_info(f"Chosen: {result['chosen']}, by {result['chosen_by']}")
    rank_zero_info(f"{'test':24}{'before':>12}{'after':>12}")
    for name in SHOWN:
        rank_zero_info(f"{name:24}{result['before'][name]:12.4f}{result['after'][name]:12.4f}")
    worse = [name for name, row in result["test"].items() if row.get("nll_lower_than_before") is False]
    if worse:
        rank_zero_info(f"These maps did not lower the test NLL: {', '.join(worse)}")
    if result["checkpoint"]:
        more = "" if result["folded"] else f"; use it with -c {Path(cli.run_folder) / CONFIG} after the run's config"
        rank_zero_info(f"Calibrated checkpoint: {result['checkpoint']}{more}")
    else:
        rank_zero_info("No map was better than the logits as they are; no checkpoint is written.")
